"""What a model saw, as pictures: masks over images, and attention between words and pixels."""
