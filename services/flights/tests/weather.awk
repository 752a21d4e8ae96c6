# The pipeline weather-impact as a batch job: reads data/weather.csv, then data/flights.csv, and writes the rows of
# out/weather-impact.csv, unsorted.
#   awk -f services/flights/tests/weather.awk weather.csv flights.csv | LC_ALL=C sort
# Weather: 1 observed_at (on the hour), 2 origin, 7 wind_speed_mph, 9 precip_in. Flights: 1 scheduled_departure,
# 2 departure_delay_min (empty: cancelled), 7 origin. All times are UTC.
BEGIN { FS = ","; OFS = "," }

# Days since 1970-01-01 of a civil date.
function days(y, m, d,    era, yoe, doy) {
    if (m <= 2) y--
    era = int(y / 400); yoe = y - era * 400
    doy = int((153 * (m > 2 ? m - 3 : m + 9) + 2) / 5) + d - 1
    return era * 146097 + yoe * 365 + int(yoe / 4) - int(yoe / 100) + doy - 719468
}
function minutes(t) {
    return days(substr(t, 1, 4) + 0, substr(t, 6, 2) + 0, substr(t, 9, 2) + 0) * 1440 \
        + substr(t, 12, 2) * 60 + substr(t, 15, 2)
}

FNR == 1 { file++; next }
file == 1 {
    if (substr($1, 15) != "00:00Z") { print "an observation that is not on the hour: " $0; exit 1 }
    hour = minutes($1) / 60
    seen[$2, hour] = 1; wind[$2, hour] = $7; rain[$2, hour] = $9
    next
}
{
    at = minutes($1); last = int(at / 60); w = "unknown"; p = "unknown"
    for (hour = last; hour * 60 >= at - 120; hour--)
        if (($7, hour) in seen) {
            speed = wind[$7, hour]; inches = rain[$7, hour]
            if (speed != "") w = speed < 10 ? "0-10" : speed < 20 ? "10-20" : speed < 30 ? "20-30" : "30+"
            if (inches != "") p = inches > 0 ? "some" : "none"
            break
        }
    key = substr($1, 1, 10) "," w "," p
    flights[key]++
    if ($2 == "") cancelled[key]++
    else total[key] += $2
}
END { for (key in flights) print key, flights[key], cancelled[key] + 0, (key in total) ? total[key] : "" }
