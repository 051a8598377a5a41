import string

import pytest

from narrowgauge.train.tasks import cipher, cipher_table, translate


def test_a_language_is_a_permutation_of_the_letters() -> None:
    table = cipher_table(0)
    assert sorted(table) == sorted(table.values()) == list(string.ascii_lowercase)
    assert cipher_table(1) != table


def test_letters_are_translated_and_words_may_be_reversed() -> None:
    table = cipher_table(0)
    assert translate("ab c") == f"{table['a']}{table['b']} {table['c']}"
    assert translate("ab c", reverse=True) == f"{table['c']} {table['a']}{table['b']}"
    assert translate("ab c", 1) != translate("ab c")


@pytest.mark.parametrize("reverse", [False, True])
def test_examples_can_be_translated_back(reverse: bool) -> None:
    back = {value: key for key, value in cipher_table(2).items()}
    for example in cipher(100, 10, seed=0, language=2, reverse=reverse).train:
        words = example.answer.decode().split(" ")
        sentence = " ".join("".join(back[letter] for letter in word) for word in words[:: -1 if reverse else 1])
        assert example.prompt.decode() == f"{sentence}>"
        assert 2 <= len(words) <= 4
        assert len(example.prompt) <= 20


def test_sentences_of_one_word_are_refused() -> None:
    with pytest.raises(ValueError, match="max_words"):
        cipher(1, 1, seed=0, max_words=1)
