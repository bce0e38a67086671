"""The pages of ``mode=demo``.

What a page shows is computed apart from how it is laid out, and only the layout imports Gradio (an extra).
"""
