"""Sigma tables, warped lists and look-ups against the recorded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genlock.errors import UsageError
from genlock.generator.schedule import Schedule, add_noise

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def recorded(golden_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "schedule.safetensors")


@pytest.mark.parametrize("shift", [5, 8])
def test_the_table_and_its_warped_lists(recorded: dict[str, torch.Tensor], shift: int) -> None:
    schedule = Schedule(float(shift))
    torch.testing.assert_close(schedule.sigmas, recorded[f"sigmas_shift{shift}"], atol=1e-7, rtol=0)
    torch.testing.assert_close(schedule.timesteps, recorded[f"timesteps_shift{shift}"], atol=1e-4, rtol=0)
    for steps in ([1000, 750, 500, 250], [1000, 750, 500, 250, 0]):
        name = f"warped_{'_'.join(map(str, steps))}_shift{shift}"
        timesteps, _ = schedule.resolve(steps, warped=True)
        torch.testing.assert_close(timesteps, recorded[name], atol=1e-4, rtol=0)


def test_any_time_step_has_the_nearest_entrys_sigma(recorded: dict[str, torch.Tensor]) -> None:
    timesteps, sigmas = Schedule(5.0).resolve(recorded["query_t"].tolist(), warped=False)
    assert timesteps.tolist() == recorded["query_t"].tolist()
    torch.testing.assert_close(sigmas, recorded["query_sigma_shift5"], atol=1e-7, rtol=0)


def test_noise_is_added_at_the_looked_up_sigma(recorded: dict[str, torch.Tensor]) -> None:
    x0, noise = recorded["add_noise.x0"], recorded["add_noise.noise"]
    _, sigmas = Schedule(5.0).resolve(recorded["query_t"].tolist(), warped=False)
    for row, sigma in enumerate(sigmas):
        expected = recorded["add_noise.shift5"][row]
        torch.testing.assert_close(add_noise(x0[row], noise[row], sigma), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [[], [1001], [-1]])
def test_a_list_that_is_empty_or_off_the_scale_is_refused(steps: list[int]) -> None:
    with pytest.raises(UsageError):
        Schedule(5.0).resolve(steps, warped=True)
