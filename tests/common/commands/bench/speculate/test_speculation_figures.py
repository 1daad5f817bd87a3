"""From answers to cells, to the formula, to the table and the file: exact on answers whose times are known."""

import json

import pytest

from common.commands.bench.results import Machine, Model
from common.commands.bench.speculate.cell import Key, cell_of
from common.commands.bench.speculate.formula import predicted_tokens_per_s
from common.commands.bench.speculate.results import SpeculationResults
from common.commands.bench.speculate.table import table_lines
from tests.common.commands.bench.speculate.synthetic import answer, cell

GREEDY = Key("worker", 0.0, 3)


def test_a_cell_adds_its_answers_up() -> None:
    both = cell_of(GREEDY, [answer([3, 0, 1], 3, 10, wait_ms=2), answer([2], 3, 20, wait_ms=6)], ["refused"])
    assert (both.requests, both.failures) == (2, ("refused",))
    # 4 + 1 + 2 tokens in 30 ms, and 3 in 20 ms.
    assert (both.tokens, both.passes, both.rounds) == (10, 4, 4)
    assert both.tokens_per_s == pytest.approx(10 / 0.050)
    assert both.tokens_per_pass == 2.5
    assert (both.drafted_at, both.accepted_at) == ((4, 4, 4), (3, 2, 1))
    assert both.acceptance == pytest.approx(6 / 12)
    assert both.acceptance_at == (0.75, 0.5, 0.25)
    assert (both.drafted_share, both.wait_ms_per_round) == (1.0, 3.0)


def test_an_end_of_text_counts_as_drawn() -> None:
    ended = cell_of(GREEDY, [answer([3, 3], 3, 10, ended=True)])
    assert (ended.seen_tokens, ended.tokens, ended.passes) == (7, 8, 2)


def test_without_drafts_each_token_is_a_pass() -> None:
    plain = cell(0.0, [0] * 8, 0, 10)
    assert (plain.tokens, plain.passes, plain.rounds) == (8, 8, 0)
    assert plain.tokens_per_s == pytest.approx(100)
    assert (plain.acceptance, plain.acceptance_at, plain.wait_ms_per_round) == (None, (), None)


def test_answers_of_one_token_tell_nothing() -> None:
    nothing = cell(0.0, [], 2, 10)
    assert (nothing.tokens_per_s, nothing.tokens_per_pass, nothing.drafted_share) == (None, None, None)
    assert predicted_tokens_per_s([nothing]) == {}


def test_with_one_chance_everywhere_the_formula_is_that_of_leviathan() -> None:
    """Half of the passes accept the first token, a quarter the second too, and so on."""
    rounds = [0] * 8 + [1] * 4 + [2] * 2 + [3] + [4]
    cells = [cell(0.0, [min(accepted, length) for accepted in rounds], length, 10 + length) for length in range(5)]
    predicted = predicted_tokens_per_s(cells)
    for length in range(5):
        tokens = (1 - 0.5 ** (length + 1)) / (1 - 0.5)
        assert predicted[Key("worker", 0.0, length)] == pytest.approx(tokens / (0.010 + 0.001 * length))


def test_chances_and_costs_come_from_all_lengths() -> None:
    cells = [
        cell(0.0, [1, 1, 1, 1], 1, 10),
        cell(0.0, [2, 0, 2, 0], 2, 20),
        cell(0.0, [1, 0, 0, 0], 3, 21),
        cell(0.7, [0, 0, 0, 0], 1, 40),
        cell(0.0, [1, 1], 1, 1000, proposer="ngram"),
    ]
    predicted = predicted_tokens_per_s(cells)
    # The first position was accepted in 7 of 12 passes; a line through 10, 20 and 21 ms has 17 in the middle.
    assert predicted[Key("worker", 0.0, 2)] == pytest.approx((1 + 7 / 12 + 2 / 8) / 0.017)
    assert predicted[Key("worker", 0.0, 3)] == pytest.approx((1 + 7 / 12 + 2 / 8) / 0.0225)
    assert predicted[Key("worker", 0.7, 1)] == pytest.approx(1 / 0.040)
    assert predicted[Key("ngram", 0.0, 1)] == pytest.approx(2 / 1.0)


def results() -> SpeculationResults:
    cells = (cell(0.0, [0] * 8, 0, 10), cell(0.0, [1, 3, 0, 0], 3, 16), cell(0.7, [], 3, 10))
    work = {"text": "natural", "prompts": "1", "repeats": "1", "max_tokens": "9", "seed": "0", "draft": "small"}
    return SpeculationResults("now", Model("m", "0", "bfloat16", "int8", 1), Machine("cpu", 2, "os", "3"), work, cells)


def test_the_table_says_what_drafting_brought() -> None:
    lines = list(table_lines(results()))
    assert lines[0] == "m, bfloat16, quantization int8, 1 rank(s)"
    rows = [line.split() for line in lines if line.startswith("worker")]
    assert rows[0] == ["worker", "0", "0", "100.0", "1.00", "-", "1.00", "0", "-", "100.0", "1.00"]
    # 8 tokens in 4 passes of 16 ms; 4 of 12 drafted tokens accepted.
    assert rows[1] == ["worker", "0", "3", "125.0", "1.25", "33.3", "2.00", "100", "1.00", "125.0", "1.00"]
    assert rows[2] == ["worker", "0.7", "3", "-", "-", "-", "-", "-", "-", "-", "-"]


def test_the_file_has_the_counts_and_what_follows_from_them() -> None:
    fields = json.loads(results().to_json())
    assert fields["format"] == "tandem-bench-speculate/1"
    assert "key" not in fields["cells"][1]
    cell_fields = fields["cells"][1]
    assert (cell_fields["proposer"], cell_fields["temperature"], cell_fields["max_draft_tokens"]) == ("worker", 0.0, 3)
    assert cell_fields["acceptance_at"] == [0.5, 0.25, 0.25]
    assert cell_fields["accepted_at"] == [2, 1, 1]
    assert cell_fields["speed_up"] == pytest.approx(1.25)
    assert fields["cells"][2]["tokens_per_s"] is None
