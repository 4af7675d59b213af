"""Extensions of Sphinx that the book is rendered with."""
