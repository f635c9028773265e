from __future__ import annotations

import math

import torch
from scipy.interpolate import make_interp_spline

from kinetograph.kernels.spline import spline_table


def functions(x: torch.Tensor) -> torch.Tensor:
    n = torch.arange(1, 9, dtype=x.dtype)
    return torch.sin(x.unsqueeze(1) * n * math.pi / 5.0) / x.unsqueeze(1)


def test_a_table_holds_its_tolerances_with_few_intervals() -> None:
    x = torch.linspace(0.3, 5.0, 4001, dtype=torch.float64)
    sizes = []
    for tolerance in (1e-3, 1e-6, 1e-8):
        table = spline_table(functions, 0.3, 5.0, tolerance, 100 * tolerance)
        exact = functions(x)
        assert (table(x) - exact).abs().max() <= 1.05 * tolerance * exact.abs().max()
        sizes.append(table.n_intervals)
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_table_is_the_clamped_cubic_spline() -> None:
    table = spline_table(lambda x: torch.exp(-x).unsqueeze(1), 0.5, 4.0, 1.0, 1.0)
    knots = torch.linspace(0.5, 4.0, table.n_intervals + 1, dtype=torch.float64).numpy()
    ends = ([(1, -math.exp(-0.5))], [(1, -math.exp(-4.0))])
    scipys = make_interp_spline(knots, [math.exp(-k) for k in knots], k=3, bc_type=ends)
    x = torch.linspace(0.5, 3.999, 501, dtype=torch.float64)
    torch.testing.assert_close(table(x)[:, 0], torch.from_numpy(scipys(x.numpy())), rtol=0.0, atol=1e-12)


def test_the_errors_it_reports_are_those_there_are() -> None:
    table = spline_table(functions, 0.3, 5.0, 1e-4, 1e-2)
    x = torch.linspace(0.3, 4.9999, 7001, dtype=torch.float64, requires_grad=True)
    values = table(x)
    exact = functions(x)
    worst = float((values - exact).abs().max().detach() / exact.abs().max().detach())
    assert 0.5 * table.error < worst < 1.3 * table.error
    (slope,) = torch.autograd.grad(values[:, 7].sum(), x, retain_graph=True)
    (exact_slope,) = torch.autograd.grad(exact[:, 7].sum(), x)
    assert float((slope - exact_slope).abs().max()) < 1.3 * table.slope_error * 8 * math.pi / 5.0 * 8
