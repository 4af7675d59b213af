"""What the tests of figures share."""

import pytest


@pytest.fixture
def rows_of():
    """Draws a figure, so that what cannot be drawn raises, and returns the row labels of its first axes."""

    def draw(figure):
        figure.canvas.draw()
        return [label.get_text() for label in figure.axes[0].get_yticklabels()]

    return draw
