//! Real-time flight monitoring: hourly delays of every flight out of New York, with a board service.
