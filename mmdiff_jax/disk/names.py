"""Names of files as people read them."""


def one_line(text: object) -> str:
  """Text that every terminal shows in one line; the rest is escaped.

  File names may hold line breaks, and bytes that are not text.
  """
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in str(text)
  )
