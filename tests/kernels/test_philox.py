"""Philox against the known answers of its authors (``kat_vectors`` of Random123), and its normal numbers."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from kinetograph.kernels.philox import normal_numbers, philox

ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]


def words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    found = philox(words(*counter), words(*key))  # type: ignore[arg-type]
    assert tuple(int(word) for word in found) == answer


def test_numbers_are_normal_and_independent() -> None:
    n = 100_000
    counter = (torch.arange(n), *words(1, 2, 3))
    numbers = normal_numbers(counter, words(4, 5))  # type: ignore[arg-type]
    assert numbers.shape == (n, 3)
    for column in numbers.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert float((torch.corrcoef(numbers.T) - torch.eye(3)).abs().max()) < 4.0 / n**0.5
    for place in range(1, 4):  # every word of the counter, and the key, make others
        other = [torch.arange(n), *words(1, 2, 3)]
        other[place] = other[place] + 1
        again = normal_numbers(tuple(other), words(4, 5))  # type: ignore[arg-type]
        assert abs(float(torch.corrcoef(torch.stack([numbers[:, 0], again[:, 0]]))[0, 1])) < 4.0 / n**0.5
    again = normal_numbers(counter, words(4, 6))  # type: ignore[arg-type]
    assert abs(float(torch.corrcoef(torch.stack([numbers[:, 0], again[:, 0]]))[0, 1])) < 4.0 / n**0.5


@pytest.mark.parametrize("device", DEVICES)
def test_the_kernel_draws_what_the_plain_form_draws(device: str) -> None:
    gpu = pytest.importorskip("kinetograph.kernels.gpu.philox", exc_type=ImportError)
    n = 300
    counter = (torch.arange(n), *(torch.full((n,), word) for word in (7, 0xFFFFFFFF, 0x80000000)))
    key = (torch.full((n,), 0x9ABCDEF0), torch.full((n,), 0xF2345678))
    plain = normal_numbers(counter, key)
    ours = gpu.normal_numbers(*(word.to(device) for word in (*counter, *key))).cpu()
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
