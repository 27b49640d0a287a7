-- The server's clock, seconds since 1970.
SELECT extract(EPOCH FROM clock_timestamp())::double precision AS seconds
