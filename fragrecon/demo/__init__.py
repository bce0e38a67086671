"""The pages of ``mode=demo``.

`inpainting` and `reassembly` compute the contents of the pages; only `inpainting_page`, `reassembly_page` and `layout`
need Gradio.
"""
