"""From a trained task to samples: media files, previews, larger frames."""
