"""What every stage's training loop shares: the time budget, the log, the average of weights, the checkpoint.

A stage is given seconds, not steps: its learning rate follows the share of its time that is gone, so that it ends
annealed on any machine. It can be stopped and resumed; a resumed stage continues the schedule over the longer total.
Knows nothing of models beyond `nn.Module` and of data not at all.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import ranks

WARM_STEPS = 200
FLOOR = 0.01  # of the peak learning rate, at the end
SAVE_EVERY_S = 60.0
LOG_EVERY_S = 3.0
CHECK_EVERY = 25  # steps between two looks at whether gradients are finite
EMA_DECAY = 0.999
CLIP_NORM = 1.0


class Budget:
    """Seconds of a stage, from the first call of this process to the tail kept back for its results.

    before: seconds of training that earlier calls spent. progress() in [0, 1] counts training time alone.
    planned: seconds of training that all calls together are to spend, where later ones will follow this one.
    """

    def __init__(self, seconds: float, *, tail: float, before: float = 0.0, planned: float = 0.0) -> None:
        self.born = time.monotonic()
        self.deadline = self.born + max(seconds - tail, 0.0)
        self.before = before
        self.planned = planned
        self.training_from: float | None = None

    def begin(self) -> None:
        self.training_from = time.monotonic()

    @property
    def wall(self) -> float:
        return time.monotonic() - self.born

    @property
    def trained(self) -> float:
        """Seconds of training, earlier calls included."""
        return self.before + (0.0 if self.training_from is None else time.monotonic() - self.training_from)

    def progress(self) -> float:
        if self.training_from is None:
            return 0.0
        total = self.before + max(self.deadline - self.training_from, 1e-6)
        return min(self.trained / max(total, self.planned), 1.0)

    def over(self) -> bool:
        return time.monotonic() >= self.deadline


def learning_rate(peak: float, progress: float, step: int) -> float:
    """Linear warm-up over the first steps, then half a cosine down to a hundredth of the peak."""
    warm = min((step + 1) / WARM_STEPS, 1.0)
    return peak * warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Log:
    """Appends JSON lines to a file and prints a shorter form of them."""

    def __init__(self, path: Path, stage: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.stage = stage

    def __call__(self, **fields: Any) -> None:
        record = {"stage": self.stage, **{k: rounded(v) for k, v in fields.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(" ".join(f"{k}={v}" for k, v in record.items()), flush=True)


def rounded(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value


class Ema:
    """Running average of the weights of some modules, in float32; the decay grows to its value over the first steps."""

    def __init__(self, modules: dict[str, nn.Module], decay: float = EMA_DECAY) -> None:
        self.decay = decay
        self.count = 0
        self.live = {f"{n}.{k}": p for n, m in modules.items() for k, p in m.named_parameters()}
        self.shadow = {k: p.detach().float().clone() for k, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.shadow.values()), [p.detach() for p in self.live.values()], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the live weights and the averaged ones; a second call undoes the first."""
        for key, parameter in self.live.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.shadow[key])
            self.shadow[key].copy_(kept)

    @torch.no_grad()
    def reset_live(self) -> None:
        for key, parameter in self.live.items():
            parameter.copy_(self.shadow[key])

    @torch.no_grad()
    def capture(self) -> None:
        """Takes the live weights as the average."""
        for key, parameter in self.live.items():
            self.shadow[key].copy_(parameter)

    def averaged(self) -> AbstractContextManager[None]:
        return _Swapped(self)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        for key, value in self.shadow.items():
            value.copy_(state["shadow"][key])


class _Swapped(AbstractContextManager[None]):
    def __init__(self, ema: Ema) -> None:
        self.ema = ema

    def __enter__(self) -> None:
        self.ema.swap()

    def __exit__(self, *exc: object) -> None:
        self.ema.swap()


class Trainer:
    """Optimiser, schedule, average and checkpoint of one stage.

    modules: what is trained, by name. path: the checkpoint; read at once if it is there. `step(loss)` does the backward
    pass (unless the loss has none to do: then its gradients are there already) and everything after it. A step whose
    gradients are not finite changes nothing but the count of steps; where most of them are so, the averaged weights are
    put back and the peak learning rate is halved, at most three times, then it raises.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        *,
        path: Path,
        log: Log,
        seconds: float,
        tail: float,
        peak_lr: float,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        ema_decay: float = EMA_DECAY,
        planned: float = 0.0,
    ) -> None:
        self.modules = modules
        self.path = path
        self.log = log
        self.peak_lr = peak_lr
        self.params = [p for m in modules.values() for p in m.parameters()]
        self.device = self.params[0].device
        flat = [p for p in self.params if p.ndim < 2]
        deep = [p for p in self.params if p.ndim >= 2]
        groups = [{"params": deep, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=betas, fused=self.device.type == "cuda")
        self.ema = Ema(modules, ema_decay)
        self.steps = 0
        self.rescues = 0
        self.skipped = torch.zeros((), device=self.device)  # steps since the last check; counted without waiting
        before = self._load()
        self.budget = Budget(seconds, tail=tail, before=before, planned=planned)
        self.progress = 0.0
        self.over = False
        self.first_step = self.steps
        self._saved = time.monotonic()
        self._logged = 0.0
        self._logged_steps = self.steps
        self._logged_at = time.monotonic()

    @property
    def resumed(self) -> bool:
        return self.first_step > 0

    def begin(self) -> None:
        """Starts the clock; however late it is, one step is made."""
        self.budget.begin()
        self._agree()
        self.over = False
        self._saved = self._logged_at = time.monotonic()

    def _agree(self) -> None:
        """Every rank goes by the first one's clock: how far the stage is, and whether it is over."""
        self.progress = abs(told := ranks.agreed(-1.0 if self.budget.over() else self.budget.progress()))
        self.over = told < 0

    def step(self, loss: Tensor, **extra: Any) -> None:
        rate = learning_rate(self.peak_lr, self.progress, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if loss.requires_grad:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        mean = loss.detach()
        if ranks.size() > 1:
            for parameter in self.params:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            mean = ranks.average([p.grad for p in self.params if p.grad is not None], mean.view(1))[0]
        bad = ~nn.utils.clip_grad_norm_(self.params, CLIP_NORM).isfinite()
        self.skipped += bad
        if self.device.type == "cuda":
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined] - what the fused kernel reads to do nothing
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        self.ema.update()
        self.steps += 1
        now = time.monotonic()
        if self.steps % CHECK_EVERY == 0:
            self._check()
        if ranks.leads() and (now - self._logged_at >= LOG_EVERY_S or self.steps == self.first_step + 1):
            self._report(mean, rate, now, extra)
        if ranks.leads() and now - self._saved >= SAVE_EVERY_S:
            self.save()
        self._agree()

    def _report(self, loss: Tensor, rate: float, now: float, extra: dict[str, Any]) -> None:
        pace = (self.steps - self._logged_steps) / max(now - self._logged_at, 1e-6)
        self._logged_at, self._logged_steps = now, self.steps
        trained = self.budget.trained
        self.log(step=self.steps, s=trained, loss=float(loss), its=pace, lr=rate, **extra)

    def _check(self) -> None:
        skipped = int(self.skipped)
        self.skipped.zero_()
        if skipped:
            self.log(step=self.steps, event="steps skipped", skipped=skipped, of=CHECK_EVERY)
        if 2 * skipped > CHECK_EVERY:
            self._rescue()

    def _rescue(self) -> None:
        self.rescues += 1
        self.log(step=self.steps, event="gradients are not finite", rescues=self.rescues)
        if self.rescues > 3 or not all(torch.isfinite(v).all() for v in self.ema.shadow.values()):
            raise FloatingPointError(f"gradients are not finite at step {self.steps}: resume from {self.path}")
        self.ema.reset_live()
        self.optimizer.state.clear()
        self.peak_lr /= 2

    def save(self) -> None:
        """Writes the checkpoint beside itself and renames it: a reader sees the old one or the new one."""
        if not ranks.leads() or not all(bool(torch.isfinite(p).all()) for p in self.params):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "steps": self.steps,
            "trained": self.budget.trained,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)
        self._saved = time.monotonic()

    def _load(self) -> float:
        if not self.path.exists():
            return 0.0
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.steps = int(state["steps"])
        return float(state["trained"])


def work_type(device: torch.device) -> torch.dtype:
    """The type of products: bfloat16 on a GPU, float32 on a CPU, most of which are slow at anything else."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Products in the work type; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=work_type(device) == torch.bfloat16)


def fastest(
    candidates: dict[str, Callable[[], None]],
    trial: Callable[[], Any],
    *,
    device: torch.device,
    log: Log,
    repeats: int = 3,
) -> str:
    """Tries ways of doing the same thing and leaves the fastest one switched on; returns its name.

    Each candidate's value switches it on; `trial` runs one whole step, backward pass included. A way that fails (a
    compiler that cannot, memory that is not enough) is out. Raises RuntimeError if all do.
    """
    times: dict[str, float] = {}
    for name, switch in candidates.items():
        started = time.monotonic()
        try:
            switch()
            trial()
            trial()
            begun = synchronised(device)
            for _ in range(repeats):
                trial()
            times[name] = (synchronised(device) - begun) / repeats
            log(event="tried", way=name, step_s=times[name], setup_s=begun - started)
        except Exception as fault:  # noqa: BLE001 - whatever goes wrong with one way, the others remain
            log(event="failed", way=name, why=(str(fault).splitlines() or [repr(fault)])[0][:300])
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if not times:
        raise RuntimeError(f"none of {', '.join(candidates)} works here")
    best = min(times, key=lambda name: times[name])
    candidates[best]()
    log(event="chosen", way=best)
    return best


def table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    print(f"\n{title}")
    for name, value in rows:
        shown = " ".join(f"{v:.4g}" for v in value) if isinstance(value, list | tuple) else value
        print(f"  {name:<34} {shown:.5g}" if isinstance(shown, float) else f"  {name:<34} {shown}")
    print(flush=True)


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
