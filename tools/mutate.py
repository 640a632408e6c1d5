"""Plants one deliberate mistake at a time in a copy of the source and asks the golden tests whether they notice.

    python tools/mutate.py [--only NAME] [--json FILE]

Each mistake is a small edit that a person could make and that leaves shapes intact. Prints a table: the mistake, the
file, and the first golden test that failed. Exits with 4 if a mistake goes unnoticed or no longer applies.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 300
QUICKLY = ["-x", "-q", "-p", "no:cacheprovider", "-k", "not mesh"]  # a mesh takes longer and notices no more


@dataclass(frozen=True, slots=True)
class Mistake:
    name: str
    file: str
    before: str
    after: str


MISTAKES = (
    Mistake(
        "RMS norm a head at a time",
        "generator/model.py",
        "        return (z.float() * torch.rsqrt(mean_square + eps)).to(z.dtype) * self.weight",
        "        heads = z.float().unflatten(-1, (2, -1))\n"
        "        mean_square = heads.square().mean(-1, keepdim=True)\n"
        "        return (heads * torch.rsqrt(mean_square + eps)).flatten(-2).to(z.dtype) * self.weight",
    ),
    Mistake(
        "sines before cosines in the time embedding",
        "generator/model.py",
        "torch.cat((angles.cos(), angles.sin()), dim=-1)",
        "torch.cat((angles.sin(), angles.cos()), dim=-1)",
    ),
    Mistake(
        "rotary pairs split in halves",
        "generator/rope.py",
        "    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)\n"
        "    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)",
        "    even, odd = x.float().unflatten(-1, (2, -1)).unbind(-2)\n"
        "    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-2).flatten(-2).to(x.dtype)",
    ),
    Mistake(
        "one frequency width for all rotary axes",
        "generator/rope.py",
        'dtype=torch.float64, device="cpu") / width)',
        'dtype=torch.float64, device="cpu") / 6)',
    ),
    Mistake(
        "text not padded before its projection",
        "generator/model.py",
        "F.pad(embeds.to(self.dtype), (0, 0, 0, self.config.text_len - embeds.shape[1]))",
        "embeds.to(self.dtype)[:, : int(embeds.abs().sum(-1).ne(0).sum())]",
    ),
    Mistake(
        "shift and scale swapped in the block",
        "generator/model.py",
        "shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = modulation",
        "scale_attn, shift_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = modulation",
    ),
    Mistake(
        "shift and scale swapped in the head",
        "generator/model.py",
        "shift, scale = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)",
        "scale, shift = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)",
    ),
    Mistake(
        "channel slowest when patches are put back",
        "generator/model.py",
        "patches = out.unflatten(-1, (2, 2, self.channels)).unflatten(2, (height, width))",
        "patches = out.unflatten(-1, (self.channels, 2, 2)).permute(0, 1, 2, 4, 5, 3).unflatten(2, (height, width))",
    ),
    Mistake(
        "exact GELU in the feed-forward",
        "generator/model.py",
        'F.gelu(self.ffn["0"](x), approximate="tanh")',
        'F.gelu(self.ffn["0"](x))',
    ),
    Mistake(
        "attention bias on the anchor too",
        "generator/model.py",
        "mask[:, tokens : max(tokens, keys - span.bias_spares * tokens)]",
        "mask[:, : keys - span.bias_spares * tokens]",
    ),
    Mistake(
        "attention bias on the current chunk too",
        "generator/model.py",
        "mask[:, tokens : max(tokens, keys - span.bias_spares * tokens)]",
        "mask[:, tokens:keys]",
    ),
    Mistake(
        "no zero keys on the padded biased path",
        "generator/model.py",
        " if span.pad_sink else 0",
        " if False else 0",
    ),
    Mistake(
        "recompute pass without its block-causal mask",
        "generator/window.py",
        "block = policy.chunk_frames if frames > policy.chunk_frames else 0",
        "block = 0",
    ),
    Mistake(
        "recompute positions not from 0",
        "generator/window.py",
        "span = Span(frames=frames, rope_start=0, write_start=0",
        "span = Span(frames=frames, rope_start=frames, write_start=0",
    ),
    Mistake(
        "a sink that is evicted",
        "generator/window.py",
        "move = (sink + evicted, sink, kept) if kept else None",
        "move = (evicted, 0, kept + sink)",
    ),
    Mistake(
        "a recache that writes the sink",
        "generator/window.py",
        "protected = rolling and policy.global_sink and advance <= 0 and start > 0",
        "protected = False",
    ),
    Mistake(
        "the first noise used again at every step",
        "generator/sampler.py",
        "x0 = denoise(add_noise(x0, noise, sigma), step)",
        "x0 = denoise(add_noise(x0, z, sigma), step)",
    ),
)


def noticed_by(mistake: Mistake) -> str:
    """The first golden test that fails with the mistake planted; empty if none does."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        file = source / "genlock" / mistake.file
        text = file.read_text()
        if text.count(mistake.before) != 1:
            sys.exit(f"{mistake.name}: its line stands {text.count(mistake.before)} times in {mistake.file}, not once")
        file.write_text(text.replace(mistake.before, mistake.after))
        command = [sys.executable, "-m", "pytest", *QUICKLY, "tests/golden"]
        environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    failed = re.search(r"^FAILED (\S+)", run.stdout, flags=re.MULTILINE)
    return failed.group(1) if failed and run.returncode == 1 else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="plant the one mistake of this name")
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    arguments = parser.parse_args()
    chosen = [mistake for mistake in MISTAKES if arguments.only in (None, mistake.name)]
    table = []
    for mistake in chosen:
        test = noticed_by(mistake)
        table.append({"mistake": mistake.name, "file": mistake.file, "noticed_by": test})
        print(f"{mistake.name:45} {mistake.file:22} {test or 'NOT NOTICED'}", flush=True)
    caught = sum(bool(row["noticed_by"]) for row in table)
    print(f"{caught} of {len(table)} noticed")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0 if chosen and caught == len(table) else 4


if __name__ == "__main__":
    sys.exit(main())
