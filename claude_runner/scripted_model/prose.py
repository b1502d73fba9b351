"""Prose of any wished length: always the same words, exactly as many as asked for."""

from functools import lru_cache

TALE = """
the river keeps a slow record of every winter and nobody along its banks remembers who first wrote it down
a small boat carries letters between two quiet towns while gulls follow its wake and the light grows thin
some mornings smell of bread and rain and of wood that was cut before the frost came over the northern hills
people who mend clocks learn to listen because each wheel has its own opinion about what an hour should be
paper lanterns hang above the market where children trade coloured stones for stories about distant islands
"""
VOCABULARY = TALE.split()
SENTENCE_LENGTHS = (9, 14, 6, 11, 17, 8, 12)
SENTENCES_A_PARAGRAPH = 5
LONGEST = 100_000


@lru_cache(maxsize=16)
def prose(count: int) -> str:
    """`count` words (at most `LONGEST`) as sentences in Markdown paragraphs."""
    left = min(count, LONGEST)
    paragraphs: list[list[str]] = []
    said = sentence = 0
    while left > 0:
        length = min(left, SENTENCE_LENGTHS[sentence % len(SENTENCE_LENGTHS)])
        if sentence % SENTENCES_A_PARAGRAPH == 0:
            paragraphs.append([])
        paragraphs[-1].append(_sentence(said, length))
        said, left, sentence = said + length, left - length, sentence + 1
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def _sentence(start: int, length: int) -> str:
    # A step of 7 is coprime to the vocabulary's size, so neighbours differ from lap to lap.
    lap, place = divmod(start, len(VOCABULARY))
    words = [VOCABULARY[(place + step + 7 * lap) % len(VOCABULARY)] for step in range(length)]
    return f"{words[0].capitalize()}{''.join(' ' + word for word in words[1:])}."
