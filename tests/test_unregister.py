"""R6: unregister finds all that equals its argument, however many others there are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

import lastly
from lastly import _stack


class Pool:
    """Something with methods to close it."""

    def close(self) -> None: ...


class Odd:
    """A callable that equals whatever it is told to."""

    def __init__(self, *equals: object) -> None:
        self.equals = equals

    def __call__(self) -> None: ...
    def __eq__(self, other: object) -> bool:
        return any(other is one for one in self.equals)

    __hash__ = None


class SameHash(Odd):
    """One that has a hash besides, which says nothing."""

    def __hash__(self) -> int:
        return 1


def closes() -> None: ...


def others() -> None: ...


@pytest.fixture(params=["walked", "indexed"])
def stack(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, manager: lastly.ShutdownManager
) -> Iterator[None]:
    """A large stack has an index; here it has one from the third registration on, or none."""
    monkeypatch.setattr(_stack, "_LARGE", 3 if request.param == "indexed" else 10**6)
    yield
    for registration in manager.pending():
        registration.cancel()


def pending(manager: lastly.ShutdownManager) -> list[object]:
    return [registration._func for registration in manager.pending()]


@pytest.mark.parametrize(
    "func",
    [closes, print, Pool().close, [].append, Pool, partial(closes)],
    ids=["function", "builtin", "method", "builtin method", "class", "partial"],
)
def test_it_takes_off_all_that_are_equal(
    manager: lastly.ShutdownManager, stack: None, func: object
) -> None:
    """R6: by whichever verb and in whatever place they were registered, and no others."""
    manager.register(func)
    manager.register(others)
    manager.defer(func, name="by defer")
    manager.register(others)
    manager.register(func)
    manager.unregister(func)
    assert pending(manager) == [others, others]
    manager.unregister(func)
    manager.register(func)
    manager.unregister(func)
    assert pending(manager) == [others, others]


@pytest.mark.parametrize("kind", [Odd, SameHash])
def test_oddly_equal_callables(
    manager: lastly.ShutdownManager, stack: None, kind: type[Odd]
) -> None:
    """R6: `==` decides, also where no hash agrees with it, and from both sides."""
    odd = kind(closes)
    for func in (others, odd, closes, others):
        manager.register(func)
    manager.unregister(kind(others))
    assert [type(func) for func in pending(manager)] == [type(closes), kind]
    manager.unregister(closes)
    assert pending(manager) == []


def test_a_method_of_an_odd_callable(manager: lastly.ShutdownManager, stack: None) -> None:
    """R6: two bound methods are equal if their functions are, whatever that means."""
    pool = Pool()
    for _ in range(4):
        manager.register(partial(pool.close))
    other = type(pool.close)(SameHash(Pool.close), pool)
    manager.register(other)
    manager.unregister(pool.close)
    assert other not in pending(manager)
    assert len(manager.pending()) == 4


def test_what_was_cancelled_is_not_found_again(
    manager: lastly.ShutdownManager, stack: None
) -> None:
    """R6, R7: the first, a middle and the last of equal ones can be cancelled before."""
    for gone in range(5):
        handles = [manager.defer(closes) for _ in range(5)]
        manager.defer(others)
        assert handles[gone].cancel()
        assert len(manager.pending()) == 5
        manager.unregister(closes)
        manager.unregister(others)
        assert pending(manager) == []
        assert {handle.status for handle in handles} == {"cancelled"}


def test_a_cancelled_callback_is_let_go(manager: lastly.ShutdownManager, stack: None) -> None:
    """R7: nothing keeps the callback of a registration that was cancelled."""
    for _ in range(4):
        manager.defer(closes)
    pool, odd = Pool(), Odd()
    handles = [manager.defer(pool.close), manager.defer(pool.close), manager.defer(odd)]
    gone = [weakref.ref(pool), weakref.ref(odd)]
    for handle in handles:
        handle.cancel()
    del pool, odd
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_during_an_unwind(manager: lastly.ShutdownManager, stack: None) -> None:
    """R6: from inside a callback, of callbacks that were there before and of new ones."""
    calls: list[str] = []

    def clean_up() -> None:
        manager.register(others)
        manager.unregister(others)
        manager.unregister(closes)
        calls.append("cleaned up")

    for func in (closes, others, closes, others, clean_up):
        manager.register(func)
    manager.close()
    assert calls == ["cleaned up"]
    assert len(manager.last_report().outcomes) == 1


def test_a_callback_that_has_run_is_let_go(manager: lastly.ShutdownManager, stack: None) -> None:
    """R29: when the next one runs, neither the report nor the stack keeps the one before."""
    seen: list[object] = []
    pool = Pool()
    gone = weakref.ref(pool)
    manager.register(lambda: seen.append(gone()))
    for _ in range(4):
        manager.register(others)
    manager.register(pool.close)
    del pool
    manager.close()
    assert seen == [None]


def test_only_a_large_stack_has_an_index(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6: from a certain size on, and after an unwind has let go of it only if somebody asks."""
    monkeypatch.setattr(_stack, "_LARGE", 3)
    stack, indexed = manager._stack, []
    for _ in range(3):
        indexed.append(stack._index is not None)
        manager.unregister(others)
        manager.register(closes)
    indexed.append(stack._index is not None)
    assert indexed == [False, False, False, True]
    stack.forget_index()
    manager.unregister(others)
    assert stack._index is None
    manager.register(closes)
    assert stack._index is None
    manager.unregister(others)
    made = stack._index
    assert made is not None
    manager.unregister(others)
    assert stack._index is made
    manager.unregister(closes)
    assert pending(manager) == []


def test_others_that_come_while_the_last_one_is_taken_out() -> None:
    """R3, R6: two threads register and cancel equal callbacks at once, and none gets lost."""
    index = _stack.Index()
    manager = lastly.ShutdownManager()
    first, second, third = (manager.defer(closes) for _ in range(3))
    index.add([first, second])

    class Racing(dict):
        """What holds the others: another thread adds one as soon as it is seen empty."""

        def __bool__(self) -> bool:
            if not len(self):
                index.add([third])
            return False

    index._others[closes] = Racing(index._others[closes])
    index.remove(second)
    assert set(index.find(closes)) == {first, third}
    manager.unregister(closes)


def test_what_is_cancelled_before_it_is_in_the_index(manager: lastly.ShutdownManager) -> None:
    """R3: another thread may cancel what is on the stack and not in the index yet."""
    index = _stack.Index()
    handles = [manager.defer(closes), manager.defer(closes)]
    index.remove(handles[0])
    index.add(handles[:1])
    index.remove(handles[1])
    assert list(index.find(closes)) == handles[:1]
    manager.unregister(closes)


async def test_a_push_while_the_newest_is_looked_for() -> None:
    """R2: the unwind of one loop looks again if another thread registers in that moment."""
    stack = _stack.Stack()

    class Racing(dict):
        """What holds the registrations: it is changed while it is looked at."""

        raced = False

        def __reversed__(self) -> Iterator[object]:
            found = super().__reversed__()
            if not self.raced:
                self.raced = True
                self["pushed meanwhile"] = None
            return found

    stack._registrations = Racing(first=None)
    pop = stack.popper(lambda _: True)
    assert pop() == ("pushed meanwhile", None)
    assert pop() == ("first", None)
    with pytest.raises(KeyError):
        pop()
