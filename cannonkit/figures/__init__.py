"""Figures and tables of a run: each module takes files of a Run, has stages/report.py compute the numbers,
writes the caption, and hands plots.py what to draw.

A maker is a function (run, settings) -> list of Item; it is called for whole runs and for the files of a command
line alike. One that lacks a file returns Missing items, which the page lists by name.
"""
