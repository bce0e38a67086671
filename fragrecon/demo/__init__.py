"""The page of ``mode=demo``: what it shows is computed apart from how it is laid out; the layout alone needs Gradio."""
