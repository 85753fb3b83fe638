"""The LLM gateway: passes requests on to vendors of models, and accounts for them.

Bytes go both ways as they come. What must be changed in a body, such as the name of the model, is
changed where it stands; a reader of the metering core sees the answer beside.
"""
