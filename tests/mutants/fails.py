"""A test that always fails, used by the tests of the runner; ordinary runs do not collect it."""


def test_fails() -> None:
    raise AssertionError
