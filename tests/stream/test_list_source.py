import pytest

from stream.encode import pack
from stream.listsource import ListSource
from tests.stream.source_contract import CHECKS, SCHEMA


def make(log, position, cut):
    """Open a list source over a log."""
    messages = {p: list(pack(lines, cut.per_message)) for p, lines in log.items()}
    return ListSource(SCHEMA, messages, position=position, block_events=cut.block_events)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_list_keeps_the_contract(check):
    """Tests read lists in place of logs: what they show must hold for logs."""
    check(make)


def test_it_reads_from_its_position_each_time():
    """A source is a value: reading it changes nothing about what it is."""
    from tests.stream.source_contract import Cut, Position, read, sample_log

    source = make(sample_log(), Position(), Cut())

    assert [b.position for b in source] == [b.position for b in read(source)]
