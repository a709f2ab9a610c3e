import pytest

from leapcore import Duration


def test_reads_and_writes_both_units():
    assert Duration.parse("5ep") == Duration(5, "ep")
    assert Duration.parse(" 2000 st ") == Duration(2000, "st")
    assert str(Duration(5, "ep")) == "5ep"
    assert Duration(5, "ep").in_steps(22) == 110
    assert Duration(7, "st").in_steps(22) == 7


@pytest.mark.parametrize("text", ["5", "ep", "5 epochs", "-1ep", "1.5ep", 5, None, ["5ep"]])
def test_anything_else_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match=r"'5ep'.*'2000st'"):
        Duration.parse(text)
