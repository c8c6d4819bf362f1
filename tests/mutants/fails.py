"""A test that always fails; no ordinary run collects it. The runner's tests name it."""


def test_fails() -> None:
    raise AssertionError
