"""Does the text encoder give the vectors of transformers and PyTorch?

  pip install torch transformers        # may be an environment of its own
  python -m benchmarks.text_encoder --reference vectors.npz
  python -m benchmarks.text_encoder --compare vectors.npz

Fifty texts: captions, other languages, signs, one word, and more words than
the encoder reads. Both halves read the folder of the extra `text`, or --folder.
"""

import argparse
import itertools
import time

import numpy as np

TEXTS = [
  *(
    f"a {size} {color} {kind} bounces; every hit is a {length} {pitch} tone"
    for (color, pitch), kind, (size, length) in itertools.product(
      [("red", "low"), ("green", "middle"), ("blue", "high")],
      ["disc", "square", "triangle"],
      [("small", "short"), ("large", "long")],
    )
  ),
  "Rain",
  "Thunder!",
  "waves break on a rocky shore at night",
  "a dog barks twice, then a door slams",
  "Someone plays the violin, slowly and a little out of tune.",
  "fire crackles while two people talk",
  "An empty street. Nothing moves. No sound.",
  "HELICOPTER OVERHEAD, VERY LOUD",
  "3,2,1... lift-off: 12.5% throttle @ 100 dB (approx.)",
  "e-mail me at someone@example.org, or see https://example.org/a?b=c",
  "crème brûlée crackles under a spoon",
  "Ein Zug fährt über eine Brücke.",
  "Сильный дождь стучит по крыше",
  "波が岩に当たる音",
  "一只猫在叫",
  "صوت المطر على النافذة",
  "drums 🥁 and a trumpet 🎺",
  "don't; won't; can't; it's",
  "line one\nline two\tand a tab",
  "   spaces   everywhere   ",
  "supercalifragilisticexpialidocious antidisestablishmentarianism",
  "x",
  "?",
  "zzzzzzzzzzqqqqqqqqqqxxxxxxxxxx",
  "a car drives past from left to right and its engine fades",
  "the same clip, but without any music",
  "birds sing in the morning; a stream runs behind them",
  "snow falls",
  "a bell rings nine times",
  "she laughs, he coughs, the audience claps",
  "[CLS] a text with a mark in it [SEP]",
  "rain on a tin roof " * 60,
]


def reference(folder: str) -> np.ndarray:
  """Vectors by transformers, text by text, in float64."""
  import torch
  from transformers import AutoTokenizer, BertModel

  tokenizer = AutoTokenizer.from_pretrained(folder)
  model = BertModel.from_pretrained(folder).double().eval()
  vectors = []
  for text in TEXTS:
    inputs = tokenizer(
      text, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
      pooled = model(**inputs).last_hidden_state[0].mean(0)
    vectors.append((pooled / pooled.norm()).numpy())
  return np.stack(vectors)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--folder", default="")
  parser.add_argument("--reference", metavar="FILE.npz")
  parser.add_argument("--compare", metavar="FILE.npz")
  flags = parser.parse_args()
  if flags.reference:
    np.savez(flags.reference, vectors=reference(flags.folder))
    return
  from mmdiff_jax.checkpoint.text_encoder import open_text_encoder

  encoder = open_text_encoder(flags.folder)
  wanted = np.load(flags.compare)["vectors"]
  encoder(TEXTS)  # Compiles.
  started = time.perf_counter()
  found = encoder(TEXTS)
  seconds = time.perf_counter() - started
  apart = np.abs(found - wanted).max(axis=1)
  worst = int(np.argmax(apart))
  print(f"texts                   {len(TEXTS)}")
  print(f"largest difference      {apart[worst]:.1e} ({TEXTS[worst][:40]!r})")
  print(f"median of the largest   {np.median(apart):.1e}")
  print(f"texts per second        {len(TEXTS) / seconds:.0f}")


if __name__ == "__main__":
  main()
