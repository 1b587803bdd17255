"""Human studies: real or generated, opinion scores, preference.

Built once into a folder, served from it, answered into it, reported from it.
"""
