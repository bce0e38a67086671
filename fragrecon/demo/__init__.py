"""The pages of ``mode=demo``.

`inpainting` and `reassembly` compute what the pages show; only the pages themselves and their `layout` need Gradio.
"""
