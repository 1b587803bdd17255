"""From folders of clips to a study: encoded alike, hidden, planned."""
