"""
A page to talk to a model and to see inside.

In reading order, each file imports only those above it:

    words    the page's words in Korean and English
    figures  views of a reply, the paper and the run as plotly figures
    replies  a reply that grows, and can be stopped
    views    the view that the reader chose
    page     the page's parts
    serving  `chatformer web`: from settings to a running page
"""
