"""A small network that names a clip's subject, colour, motion, place, light and weather; its stages serve as features.

A trunk sees every frame alone. A few learned maps say where in the frame the subject is: what lies there is pooled, and
the middle of each map gives a position, so that motion is read from differences of positions, not of pixels.

Legend: B clips, T pixel frames, N = B T, H W pixels, h w rows and columns of a stage, M maps, D features, C classes.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import weights
from .config import EvaluatorStage
from .scene import Factors, WorldSpec
from .takes import FACTOR_NAMES

FILE = "evaluator.pt"
SAFE = ".safetensors"
GROUPS = 8  # channels are normalised in this many groups
STEP_GAIN = 8.0  # a step of 2 of 192 pixels moves (cos, sin) by 0.065: brought to the size of everything else
LAGS = (1, 4)  # frames between the positions that are compared
MOTION = "motion"

Values = Mapping[str, Sequence[str]]


def values_of(world: WorldSpec) -> dict[str, tuple[str, ...]]:
    """The classes of each factor, in the world's order."""
    return {name: getattr(world, f"{name}s") for name in FACTOR_NAMES}


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Evaluator(nn.Module):
    """widths: channels at 1/2, 1/4, 1/8 and 1/16 of what it looks at, which is the picture made `shrink` times smaller.

    values: the classes of each factor.
    """

    def __init__(self, widths: tuple[int, ...], *, maps: int, hidden: int, shrink: int, values: Values) -> None:
        super().__init__()
        self.widths, self.maps, self.hidden, self.shrink = widths, maps, hidden, shrink
        self.values = {name: tuple(values[name]) for name in FACTOR_NAMES}
        eighth, sixteenth = widths[2], widths[3]
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in widths)
        self.blocks = nn.ModuleList(nn.Sequential(Residual(width), Residual(width)) for width in widths[1:])
        self.lift = nn.Conv2d(sixteenth, eighth, 1)
        self.where = nn.Conv2d(eighth, maps, 1)
        self.frame = nn.Sequential(nn.Linear((2 + maps) * eighth, hidden), nn.SiLU(), nn.LayerNorm(hidden))
        named = [name for name in FACTOR_NAMES if name != MOTION]
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(self.values[name])) for name in named})
        steps = 4 * maps * (1 + len(LAGS)) + hidden
        self.path = nn.Sequential(
            nn.Conv1d(steps, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(hidden, hidden, 3, padding=1),
            nn.SiLU(),
        )
        self.motion = nn.Linear(2 * hidden, len(self.values[MOTION]))

    def features(self, clips: Tensor) -> list[Tensor]:
        """[B, T, 3, H, W] in [-1, 1] -> the four stages [B, T, D, h, w], finest first, at full size. Differentiable."""
        return [stage.unflatten(0, clips.shape[:2]) for stage in self._stages(clips.flatten(0, 1))]

    def logits(self, clips: Tensor) -> dict[str, Tensor]:
        """[B, T, 3, H, W] in [-1, 1] -> [B, C] of every factor, float32. T is 12 in training, and may be 9."""
        return self.named(smaller(clips, self.shrink))

    def named(self, clips: Tensor) -> dict[str, Tensor]:
        """The same of clips that are made smaller already."""
        stages = self._stages(clips.flatten(0, 1))
        merged = stages[2] + F.interpolate(self.lift(stages[3]), size=stages[2].shape[-2:])
        # From here on little is computed and much depends on it: nothing is rounded to bfloat16.
        with torch.autocast(clips.device.type, enabled=False):
            return self._named(merged.float(), clips.shape[1])

    def _named(self, merged: Tensor, frames: int) -> dict[str, Tensor]:
        share = self.where(merged).flatten(2).softmax(-1)  # [N, M, h w]
        flat = merged.flatten(2)  # [N, D, h w]
        pooled = torch.einsum("nmp,ndp->nmd", share, flat).flatten(1)
        # The largest by its place: by its value, a gradient divides by how many are as large, which may be none where
        # the value is computed a second time.
        strongest = flat.max(-1).values
        seen = self.frame(torch.cat((flat.mean(-1), strongest, pooled), dim=-1).unflatten(0, (-1, frames)))
        out = {name: head(seen.mean(1)) for name, head in self.heads.items()}
        steps = self.path(torch.cat((self._positions(share, merged, frames), seen), dim=-1).transpose(1, 2))
        out[MOTION] = self.motion(torch.cat((steps.mean(-1), steps.max(-1).values), dim=-1))
        return {name: out[name] for name in FACTOR_NAMES}

    def _stages(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        stages = [x]
        for norm, down, block in zip(self.norms, self.down, self.blocks, strict=False):
            x = block(down(F.silu(norm(x))))
            stages.append(x)
        stages[-1] = F.silu(self.norms[-1](x))
        return stages

    def _positions(self, share: Tensor, merged: Tensor, frames: int) -> Tensor:
        """Middles of the maps and their steps, [B, T, 4 M (1 + lags)]; an edge of the picture is next to the other."""
        rows, columns = merged.shape[-2:]
        grid = share.unflatten(-1, (rows, columns))
        down, across = grid.sum(-1), grid.sum(-2)  # [N, M, h], [N, M, w]
        middles = torch.cat([_turn(part) for part in (down, across)], dim=-1).unflatten(0, (-1, frames)).flatten(2)
        steps = [STEP_GAIN / lag * (middles - _delayed(middles, lag)) for lag in LAGS]
        return torch.cat((middles, *steps), dim=-1)


def smaller(clips: Tensor, times: int) -> Tensor:
    """[B, T, 3, H, W] -> [B, T, 3, H / times, W / times], float32."""
    return F.avg_pool2d(clips.float().flatten(0, 1), times).unflatten(0, clips.shape[:2])


def _turn(share: Tensor) -> Tensor:
    """Mean (cos, sin) of a distribution [..., n] over n places round a circle."""
    count = share.shape[-1]
    angle = torch.arange(count, device=share.device) * (2 * math.pi / count)
    return torch.stack(((share * angle.cos()).sum(-1), (share * angle.sin()).sum(-1)), dim=-1)


def _delayed(x: Tensor, lag: int) -> Tensor:
    """x [B, T, D] `lag` frames earlier; the first frame stands for all before it."""
    return torch.cat((x[:, :1].expand(-1, lag, -1), x[:, :-lag]), dim=1)[:, : x.shape[1]]


def new(stage: EvaluatorStage, world: WorldSpec) -> Evaluator:
    return Evaluator(stage.widths, maps=stage.maps, hidden=stage.hidden, shrink=stage.shrink, values=values_of(world))


def write(path: Path, net: Evaluator) -> None:
    """Half precision, with everything needed to make the network again; .safetensors or what torch writes."""
    config = {"widths": list(net.widths), "maps": net.maps, "hidden": net.hidden, "shrink": net.shrink}
    values = {name: list(values) for name, values in net.values.items()}
    if path.suffix == SAFE:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().to("cpu", torch.float16) for name, value in net.state_dict().items()}
        save_file(state, path, metadata={"evaluator": json.dumps({"config": config, "values": values})})
    else:
        weights.write(path, {"evaluator": net}, torch.float16, config=config, values=values)


def load(path: Path, device: torch.device) -> Evaluator:
    """The trained network, float32, frozen; from either kind of file. Raises FileNotFoundError."""
    if path.suffix == SAFE:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["evaluator"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    else:
        content = weights.read(path)
        state = content["modules"]["evaluator"]
    config, values = content["config"], content["values"]
    net = Evaluator(tuple(config.pop("widths")), **config, values=values)
    weights.fill(net, state)
    return net.to(device).eval().requires_grad_(False)


def classes(scenes: list[Factors], values: Values, device: torch.device) -> Tensor:
    """Class numbers of scenes, int64 [B, factors], in the order of FACTOR_NAMES."""
    rows = [[list(values[name]).index(getattr(scene, name)) for name in FACTOR_NAMES] for scene in scenes]
    return torch.tensor(rows, device=device)


def right(logits: dict[str, Tensor], target: Tensor) -> Tensor:
    """Whether each factor of each clip was named rightly, bool [B, factors]."""
    return torch.stack([logits[name].argmax(-1) for name in FACTOR_NAMES], dim=1) == target


if __name__ == "__main__":
    # python -m tools.world.judge out/full/evaluator.pt tools/world/trained/evaluator.safetensors
    write(Path(sys.argv[2]), load(Path(sys.argv[1]), torch.device("cpu")))
