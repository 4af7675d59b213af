import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from famf_book import notebooks
from famf_lib.support.files import ROOT


@pytest.fixture
def page(monkeypatch):
    """Runs the code of the page after replacing some of it. Returns its variables and the texts in its figures."""
    monkeypatch.setenv("FAMF_PROGRESS", "silent")  # nobody is looking, so there is no slider
    monkeypatch.chdir(ROOT / "book")
    matplotlib.use("agg")
    notebook = notebooks.read(ROOT / "book" / "framework.ipynb")
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]

    def run(old="", new=""):
        source = "\n".join(cells)
        assert not old or source.count(old) == 1
        plt.close("all")
        variables = {}
        with torch.no_grad():  # the page switches gradients off for good
            exec(compile(source.replace(old, new) if old else source, "framework.ipynb", "exec"), variables)
        figures = [plt.figure(number) for number in plt.get_fignums()]
        return variables, [[[text.get_text() for text in axes.texts] for axes in figure.axes] for figure in figures]

    return run


def test_the_scale_that_a_reader_sets_is_the_scale_of_the_fusion_and_the_check_by_hand_notices_an_activation(page):
    variables, (*_, gram, panels) = page()
    scaled, (*_, scaled_gram, scaled_panels) = page("scale: float = 1.0", "scale: float = 3.0")
    assert scaled_panels[:2] == panels[1:] and scaled_gram != gram
    torch.testing.assert_close(scaled["Z"], 9 * variables["Z"])
    audio = [panel[15:20] for panel in panels]  # the fourth of five rows, where the vector is zero
    assert audio == [["20"] * 5] * 3
    with pytest.raises(AssertionError, match="not close"):
        page("MLMA(dim=2, hidden=(128, 32))", 'MLMA(dim=2, activation="relu")')


def test_the_weights_of_the_faces_follow_the_sharpness_of_the_assignment(page):
    _, (clouds, sums, *_) = page()
    even, (even_clouds, even_sums, *_) = page("sharpness = 0.7", "sharpness = 0")
    mean = f"{even['phi'].mean():.2f}"
    assert even_sums == [[mean] * 9] and sums != even_sums and even_clouds == clouds
    hard, _ = page("sharpness = 0.7", "sharpness = 500")
    nearest = torch.cdist(hard["x"], hard["c"]).argmin(dim=2)  # (B, N): as in VLAD
    torch.testing.assert_close(hard["w"], hard["phi"][nearest], rtol=0, atol=1e-3)


def test_the_worked_case_of_the_metric_is_not_typed_in(page):
    variables, _ = page()
    assert variables["rows"]["by hand"] == pytest.approx([5 / 9, 1 / 2, 19 / 36])
    assert variables["rows"]["famf_lib"] == pytest.approx(variables["rows"]["by hand"])
    other, _ = page("[0.9, 0.8, 0.7, 0.3, 0.2]", "[0.9, 0.6, 0.7, 0.3, 0.2]")  # both found at the top
    assert other["rows"]["famf_lib"][0] == pytest.approx(2 / 3)
