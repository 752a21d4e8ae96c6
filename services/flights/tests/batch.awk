# The pipeline hourly-delays as a batch job: reads data/flights.csv, writes the rows of out/hourly-delays.csv, unsorted.
#   gzip -dc services/flights/data/flights.csv.gz | awk -f services/flights/tests/batch.awk | LC_ALL=C sort
# Columns in: 1 scheduled_departure, 2 departure_delay_min (empty: cancelled), 4 carrier, 7 origin.
BEGIN { FS = ","; OFS = "," }
NR == 1 { next }
{
    key = substr($1, 1, 13) ":00:00Z," $7 "," $4
    flights[key]++
    if ($2 == "") { cancelled[key]++; next }
    delay = $2 + 0
    if (delay >= 15) delayed[key]++
    if (!(key in longest) || delay > longest[key]) longest[key] = delay
    total[key] += delay
}
END {
    for (key in flights)
        print key, flights[key], cancelled[key] + 0, delayed[key] + 0, (key in total) ? total[key] : "", longest[key]
}
