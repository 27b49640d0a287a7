from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from realtime.simulate_command import simulate

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"

app = typer.Typer()
app.command()(simulate)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--sessions 0", "'--sessions': Input should be greater than or equal to 1"),
        ("--rate 0", "'--rate': must be above 0"),
        ("--rate nan", "'--rate': nan is not a number"),
        ("--seconds inf", "'--seconds': inf is not a number"),
        ("--seconds -1", "'--seconds': Input should be greater than or equal to 0"),
        ("--messages -1", "'--messages': Input should be greater than or equal to 0"),
        ("--invalid 1.5", "'--invalid': Input should be less than or equal to 1"),
        ("--duplicates nan", "'--duplicates': Input should be less than or equal to 1"),
        ("--invalid 0.6 --duplicates 0.6", "'--duplicates': is more than 1 together with --invalid"),
        ("--start yesterday", "'--start': 'yesterday' is not a time like"),
        ("--start 2019-12-31", "'--start': the contract refuses events before 2020"),
        ("--start 2199-01-01T00:00:00Z", "'--start': the contract refuses"),
        ("--speed 2", "'--speed': means something only with --trace"),
        ("--shift-to-now", "'--shift-to-now': means something only with --trace"),
        ("--trace missing.csv", "'--trace'"),
        ("--trace old.csv", "'--trace': has requests from before 2020"),
        ("--trace old.csv --rate 10", "'--rate': means something only without --trace"),
        ("--trace old.csv --speed 0", "'--speed': must be above 0"),
        ("--trace old.csv --model gpt-9", "'--model': 'gpt-9' has no price; choose one of gpt-"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: str, says: str) -> None:
    Path("old.csv").write_text(f"{HEADER}2019-12-31 23:59:59.9999999,1,1\n")
    result = CliRunner().invoke(app, options.split(), env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert says in result.output
