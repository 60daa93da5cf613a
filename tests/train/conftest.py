"""Processes that tests of training start are forked from a server that has what takes long to import."""

import multiprocessing

multiprocessing.set_forkserver_preload(["compressai_gen.train.loop"])
