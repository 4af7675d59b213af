from famf_lib.support.wording import counted


def test_one_is_singular_and_all_others_plural():
    assert [counted(number, "seed") for number in (1, 0, 1009)] == ["1 seed", "0 seeds", "1,009 seeds"]
    assert [counted(number, "piece of sound") for number in (1, 2)] == ["1 piece of sound", "2 pieces of sound"]
