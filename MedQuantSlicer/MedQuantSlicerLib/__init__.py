"""The parts of the MedQuant panel: plain Python in the presenter and the engine process, Qt and MRML around it."""
