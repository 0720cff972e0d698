"""Pictures of a model's output: masks over images, and attention between words and pixels."""
