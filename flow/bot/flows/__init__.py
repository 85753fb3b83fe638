"""Bots whose conversation is a graph of nodes, run by Pipecat's `FlowManager`."""
