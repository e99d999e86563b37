//! Time: the programs' sleeps, as much shorter as the command line says, and the time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `--time-scale` says. Children have the arguments of their parent.
fn scale() -> f64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--time-scale");
    arguments.nth(1).and_then(|factor| factor.parse().ok()).unwrap_or(1.0)
}

/// Sleeps for this long in the original.
pub fn sleep(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds * scale()));
}

/// The time of day (in UTC), as Python's `time.ctime()` writes it: `Tue Oct 10 11:30:08 2017`.
pub fn ctime() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format_time(seconds)
}

fn format_time(seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (mut day, of_day) = (seconds / 86_400, seconds % 86_400);
    let weekday = WEEKDAYS[(day % 7) as usize];
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{weekday} {} {:2} {hour:02}:{minute:02}:{second:02} {year}", MONTHS[month], day + 1)
}

#[cfg(test)]
mod tests {
    use super::format_time;

    #[test]
    fn the_time_is_written_as_python_writes_it() {
        assert_eq!(format_time(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(format_time(951_868_799), "Tue Feb 29 23:59:59 2000");
        assert_eq!(format_time(1_507_635_008), "Tue Oct 10 11:30:08 2017");
    }
}
