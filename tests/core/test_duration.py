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


def test_a_time_is_no_number_of_steps():
    with pytest.raises(ValueError, match="10min is a time"):
        Duration.parse("10min", minutes=True).in_steps(100)


def test_minutes_are_read_where_they_make_sense():
    assert Duration.parse("10min", minutes=True) == Duration(10, "min")
    assert Duration.parse(Duration(3, "st")) == Duration(3, "st")
    with pytest.raises(ValueError, match=r"'5ep' \(epochs\) or '2000st' \(steps\), got '10min'"):
        Duration.parse("10min")
    with pytest.raises(ValueError, match="or '10min'"):
        Duration.parse("10", minutes=True)
