"""States, ids and errors: the vocabulary agrees with itself and with what the documentation says."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from integrator import errors, model
from integrator.errors import IntegratorError, Problem
from integrator.model import ENDED, TRANSITIONS, UNSETTLED, Owner, Place, State, check_transition, new_id, object_id

#: The table of the design: what each state may become.
DESIGN = {
    "reserved": {"open", "rolling_back"},
    "open": {"committed", "rolling_back"},
    "committed": {"finished"},
    "finished": set(),
    "rolling_back": {"rolled_back"},
    "rolled_back": set(),
}


def test_the_enum_is_the_table_of_the_design() -> None:
    assert {state.value: {new.value for new in TRANSITIONS[state]} for state in State} == DESIGN


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)), ids=str)
def test_every_pair_of_states_is_legal_or_raises(old: State, new: State) -> None:
    if new.value in DESIGN[old.value]:
        check_transition(old, new)
    else:
        with pytest.raises(ValueError, match=f"{old.value} cannot become {new.value}"):
            check_transition(old, new)


def test_nothing_leads_out_of_an_ended_state_and_something_out_of_every_other() -> None:
    assert {state for state in State if not TRANSITIONS[state]} == ENDED


def test_every_state_but_reserved_is_ended_or_looked_at_by_recovery() -> None:
    assert ENDED | UNSETTLED | {State.RESERVED} == set(State)
    assert not ENDED & UNSETTLED


def test_after_the_verdict_there_is_no_way_back() -> None:
    reached, new = set(), {State.COMMITTED}
    while new - reached:
        reached |= new
        new = set().union(*(TRANSITIONS[state] for state in reached))
    assert reached == {State.COMMITTED, State.FINISHED}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.FINISHED] = frozenset({State.OPEN})  # type: ignore[index]


def test_every_state_has_its_sentence() -> None:
    source = inspect.getsource(State)
    for state in State:
        assert re.search(rf"#: [A-Z][^\n]+\.\n    {state.name} = ", source), state


# --- values -----------------------------------------------------------------------------------------------------------


def _values() -> Iterator[type]:
    for cls in vars(model).values():
        if isinstance(cls, type) and attrs.has(cls):
            yield cls


@pytest.mark.parametrize("cls", list(_values()))
def test_values_are_frozen_and_keyword_only(cls: type) -> None:
    assert all(field.kw_only for field in attrs.fields(cls))
    value = cls(**{field.name: 0 for field in attrs.fields(cls)})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(cls)[0].name, 1)


def test_a_place_knows_its_parent_and_name() -> None:
    assert (Place(root="work", path="a/b/c").parent, Place(root="work", path="a/b/c").name) == ("a/b", "c")
    assert (Place(root="work", path="c").parent, Place(root="work", path="c").name) == ("", "c")


def test_an_owner_reads_as_a_user_on_a_host() -> None:
    owner = Owner(user="anna", host="ws12", boot="", namespace=0, pid=7, started=0, application="maya")
    assert str(owner) == "anna on ws12 (process 7)"


def test_ids_are_24_hex_digits_that_sort_by_time(mocker: Any) -> None:
    mocker.patch("time.time", side_effect=itertools.count(1_700_000_000, 1))
    ids = [new_id() for _ in range(50)]
    assert ids == sorted(ids)
    assert all(re.fullmatch("[0-9a-f]{24}", id) for id in ids)


def test_ids_of_one_second_are_different_in_every_thread() -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.extend(new_id() for _ in range(2000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(ids)) == 8000


def test_an_object_id_is_one_in_extended_json() -> None:
    found = object_id()
    assert list(found) == ["$oid"]
    assert abs(int(found["$oid"][:8], 16) - time.time()) < 60


# --- errors -----------------------------------------------------------------------------------------------------------


def _errors() -> list[type[IntegratorError]]:
    found, todo = [], [IntegratorError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += cls.__subclasses__()
    return [cls for cls in found if cls.__module__ == "integrator.errors"]


def _made(cls: type[IntegratorError]) -> IntegratorError:
    if cls is errors.StorageFailed:
        return errors.StorageFailed("write", "v003/beauty.exr", OSError(28, "No space left on device"))
    if cls is errors.Conflict:
        return errors.Conflict("transactions", "a" * 24, "state is 'finished', expected 'open'")
    if cls is errors.PluginFailed:
        return errors.PluginFailed("IntegrateNotes", "sh010 model", RuntimeError("no notes"))
    if cls is errors.ThumbnailFailed:
        return errors.ThumbnailFailed("/render/beauty.1001.exr", "it is no image")
    if cls is errors.Interrupted:
        return errors.Interrupted(15)
    if issubclass(cls, errors._ProblemList):
        return cls([Problem("instances[0].asset", "is missing"), Problem("x", "y")], next="mend it")
    return cls("something happened", next="integrator recover")


@pytest.mark.parametrize("cls", _errors())
def test_errors_come_back_from_another_process_with_their_facts(cls: type[IntegratorError]) -> None:
    """Copies run in worker processes too; exceptions with arguments of their own usually do not survive pickling."""
    error = _made(cls)
    error.transaction = "a" * 24
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error) == error.message
    assert again.args == error.args


#: Exit codes of the design, by the outcome that a publish reports.
EXIT_CODES = {"refused": {1, 2, 3, 7, 8}, "busy": {4}, "rolled_back": {1, 5}, "in_doubt": {6}}


@pytest.mark.parametrize("cls", _errors())
def test_exit_code_and_outcome_fit(cls: type[IntegratorError]) -> None:
    assert cls.exit_code in EXIT_CODES[cls.outcome]
    assert cls.__doc__


def test_codes_are_stable_names() -> None:
    codes = [cls.code for cls in _errors() if not cls.__name__.startswith("_")]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)


def test_only_unsettled_errors_leave_the_end_open() -> None:
    """Whoever sees exit code 6 must recover; whoever sees another one must not have to."""
    assert {cls.__name__ for cls in _errors() if cls.exit_code == 6} == {
        cls.__name__ for cls in _errors() if issubclass(cls, errors.Unsettled)
    }
    assert not issubclass(errors.Unanswered, errors.DatabaseFailed)


def test_all_problems_are_listed_up_to_twenty() -> None:
    error = errors.RequestRefused([Problem(f"instances[{n}]", "is wrong") for n in range(23)])
    assert len(error.problems) == 23
    assert error.message.count("is wrong") == 20
    assert error.message.endswith("... and 3 more")
    assert "Nothing was touched." in error.message


def test_a_problem_is_a_place_and_a_sentence() -> None:
    problem = Problem("config.toml:3", "must be text")
    assert (problem.where, problem.what) == tuple(problem) == ("config.toml:3", "must be text")


def test_an_error_of_the_system_keeps_its_number() -> None:
    error = errors.StorageFailed("write", "v003/beauty.exr", OSError(28, "No space left on device"))
    assert (error.errno, error.path, error.action) == (28, "v003/beauty.exr", "write")
    assert error.message == "cannot write v003/beauty.exr: No space left on device"
