"""Roots of a wait-for graph -> the sessions behind each. Pure. Roots are the bits of a mask."""

from collections.abc import Iterable, Iterator, Mapping


def counted(masks: Iterable[int], roots: int) -> list[int]:
    """Count the masks that each root is in.

    Masks are added as columns of binary digits, since a session may wait for as many roots as there are sessions.
    """
    digits: list[int] = []  # by significance: the roots whose count has this digit
    for mask in masks:
        place, carry = 0, mask
        while carry:
            if place == len(digits):
                digits.append(0)
            digits[place], carry = digits[place] ^ carry, digits[place] & carry
            place += 1
    return [sum((digit >> root & 1) << place for place, digit in enumerate(digits)) for root in range(roots)]


def longest_waits(masks: Mapping[int, int], waited: Mapping[int, float], roots: int) -> list[float]:
    """Find the longest wait behind each root, in seconds; -1 where none has a known length.

    Args:
        masks: owner -> mask of the roots that it waits for.
        waited: owner -> its wait, of those that count.
        roots: number of roots.

    """
    longest = [-1.0] * roots
    seen = 0
    for owner in sorted(waited, key=lambda owner: -waited[owner]):
        for root in _bits(masks[owner] & ~seen):
            longest[root] = waited[owner]
        seen |= masks[owner]
    return longest


def _bits(mask: int) -> Iterator[int]:
    """List the numbers of the bits that are set."""
    text = bin(mask)[:1:-1]
    place = text.find("1")
    while place >= 0:
        yield place
        place = text.find("1", place + 1)
