"""IN lists: every value is in them, and there are few different ones, for a driver keeps each statement it has seen."""

from scheduler.store.database import placeholders


def test_every_value_is_in_the_list_and_nothing_else() -> None:
    for length in range(40):
        names, parameters = placeholders("job", list(range(length)))
        assert set(parameters.values()) == set(range(length))
        assert [name for name in names.split(", ") if name != "NULL"] == [f":{name}" for name in parameters]


def test_lists_of_any_length_make_few_statements() -> None:
    assert len({placeholders("job", list(range(length)))[0] for length in range(501)}) == 11
