"""CNNs, exact for images of any shape on canvases of a few shapes."""
