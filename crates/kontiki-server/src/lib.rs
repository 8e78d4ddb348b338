//! Wires everything into one running node: services, peer transport, loops, settings.
