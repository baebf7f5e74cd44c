from __future__ import annotations

import pytest

from app.sessions.state import ENDED, TRANSITIONS, IllegalTransition, SessionState, advance

S = SessionState
LEGAL = {
    (S.CREATED, S.LIVE),
    (S.CREATED, S.FINISHING),
    (S.CREATED, S.CANCELLED),
    (S.LIVE, S.DETACHED),
    (S.LIVE, S.FINISHING),
    (S.DETACHED, S.LIVE),
    (S.DETACHED, S.FINISHING),
    (S.FINISHING, S.COMPLETED),
    (S.FINISHING, S.FAILED),
    (S.FINISHING, S.DETACHED),
    (S.COMPLETED, S.LIVE),
}


@pytest.mark.parametrize("old", S)
@pytest.mark.parametrize("new", S)
def test_only_what_the_table_says_may_follow(old: SessionState, new: SessionState) -> None:
    if (old, new) in LEGAL:
        assert advance(old, new) is new
    else:
        with pytest.raises(IllegalTransition) as caught:
            advance(old, new)
        assert (caught.value.old, caught.value.new) == (old, new)


def test_states_are_the_words_of_the_contract() -> None:
    words = ["created", "live", "detached", "finishing", "completed", "failed", "cancelled"]
    assert [state.value for state in S] == words
    assert set(TRANSITIONS) == set(S)
    assert {S.COMPLETED, S.FAILED, S.CANCELLED} == ENDED
