"""What do kills, full disks, a second process and damage cost?"""
