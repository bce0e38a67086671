"""One module an on-disk format. A reader names what it reads and yields blocks of images; see
`fragrecon.data.store`.
"""
