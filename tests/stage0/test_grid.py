"""Seconds to chunks: always rounded up, and equal to walking the stream chunk by chunk."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from genlock.stage0.grid import Boundary, ChunkGrid

grids = st.builds(
    ChunkGrid,
    fps=st.sampled_from([16.0, 15.0, 24.0, 29.97]),
    chunk_frames=st.integers(1, 4),
    first_frames=st.integers(1, 5),
)
times = st.floats(0, 40)


@given(grids, times, st.booleans(), st.integers(0, 5))
@settings(deadline=None)
def test_a_time_reaches_the_first_chunk_that_starts_at_or_after_it(
    grid: ChunkGrid, at_s: float, first: bool, walked: int
) -> None:
    start = Boundary(first=first)
    for _ in range(walked):
        start = grid.after(start)
    expected = start
    while not grid.is_due(expected, at_s):
        expected = grid.after(expected)
    reached = grid.reach(start, at_s)
    assert (reached.chunk_index, reached.pixel_frame) == (expected.chunk_index, expected.pixel_frame)
    assert reached.pixel_frame / grid.fps >= at_s - 1e-6 or reached == start


@given(grids, st.integers(0, 200))
@settings(deadline=None)
def test_the_second_of_a_boundary_is_that_boundary(grid: ChunkGrid, chunk: int) -> None:
    """What the page exports (a chunk's own time) must replay at the same chunk."""
    start = Boundary()
    for _ in range(chunk % 50):
        start = grid.after(start)
    assert grid.reach(Boundary(), grid.placement(start, None).effect_s).pixel_frame == start.pixel_frame


def test_the_shipped_lengths() -> None:
    grid = ChunkGrid(fps=16, chunk_frames=3, first_frames=3)
    starts = [Boundary()]
    for _ in range(3):
        starts.append(grid.after(starts[-1]))
    assert [start.pixel_frame for start in starts] == [0, 9, 21, 33]
    assert grid.chunk_s == 0.75
    assert grid.reach(Boundary(), 0.5626).chunk_index == 2
    assert grid.reach(Boundary(), 0.5625).chunk_index == 1
