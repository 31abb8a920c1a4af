"""The plays as plain text."""

import hashlib

from reprogpt.data.shakespeare import plays, render_play


def test_a_play_is_rendered_plainly():
    markdown = ("# Hamlet\n\n## ACT I\n\n### SCENE I. Elsinore.\n\n_FRANCISCO at his post._\n\n"
                "**BERNARDO**  \nWho's there?  \n_\\[Aside]_  \nA day\\--a night—or two, & c.\n\n"
                "*Enter King Edward, and\nArtois.*\n\n**GREY & SCROOP**  \nwe'll __\\[ ]_  \n")
    assert render_play(markdown) == (
        "HAMLET\n\nACT I\n\nSCENE I. Elsinore.\n\n[FRANCISCO at his post.]\n\n"
        "BERNARDO:\nWho's there?\n[Aside]\nA day--a night--or two, &c.\n\n"
        "[Enter King Edward, and Artois.]\n\nGREY & SCROOP:\nwe'll\n")


def test_the_plays_are_clean_text():
    rendered = [document.text for document in plays()]
    assert len(rendered) == 38
    everything = "".join(rendered)
    assert not set("_*\\#\t\r\u2014\u2019") & set(everything)
    assert "BERNARDO:\nWho's there?\n\nFRANCISCO:\nNay, answer me" in everything
    # The text of every run of the default preset: it changes only on purpose.
    assert hashlib.sha256(everything.encode()).hexdigest() == (
        "ee4cf121911eef74a9c19289e15dac22287b2344199deb1d7e2aec044a8900f9")
