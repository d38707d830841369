//! Timestamps and their Error Estimate (RFC 8762 section 4.2.1, RFC 4656 section 4.1.2, RFC 8186
//! section 2.3).

const NANOSECONDS: u64 = 1_000_000_000;

/// Seconds from the NTP epoch (1900) to the Unix epoch (RFC 5905 section 6).
const UNIX_IN_NTP: u64 = 2_208_988_800;

/// Seconds of an era: after them a timestamp's seconds begin again at 0.
const ERA: u64 = 1 << 32;

/// How a timestamp is written: the Z bit of the Error Estimate beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// NTP's 64 bits: seconds since 1900 and 2^-32 seconds.
    #[default]
    Ntp,
    /// Truncated PTP version 2: seconds since 1970 and nanoseconds. The time scale is the sender's (TAI by
    /// IEEE 1588), so leap seconds show as an offset between the clocks.
    Ptp,
}

/// A timestamp as it stands in a packet. All bits zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Makes a timestamp from nanoseconds since 1970.
    #[must_use]
    pub const fn from_unix(nanoseconds: u64, format: Format) -> Self {
        let (seconds, rest) = (nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS);
        let (seconds, fraction) = match format {
            // Rounded up, so that reading rounds down to the same nanosecond.
            Format::Ntp => (
                seconds.wrapping_add(UNIX_IN_NTP),
                (rest << 32).div_ceil(NANOSECONDS),
            ),
            Format::Ptp => (seconds, rest),
        };
        Self((seconds % ERA) << 32 | fraction)
    }

    /// Reads nanoseconds since 1970. A timestamp tells its time within an era of 136 years only: the
    /// era is the one that comes nearest to `near`.
    ///
    /// None: the timestamp is missing, it lies before 1970, or its nanoseconds fill a second.
    #[must_use]
    pub const fn to_unix(self, format: Format, near: u64) -> Option<u64> {
        if self.0 == 0 {
            return None;
        }
        let (seconds, fraction) = (self.0 >> 32, self.0 % ERA);
        let (epoch, rest) = match format {
            Format::Ntp => (UNIX_IN_NTP, (fraction * NANOSECONDS) >> 32),
            Format::Ptp => (0, fraction),
        };
        if rest >= NANOSECONDS {
            return None;
        }
        let near = near / NANOSECONDS + epoch;
        // The distance from `near`, within half an era either way.
        let ahead = seconds.wrapping_sub(near) % ERA;
        let seconds = if ahead < ERA / 2 {
            near + ahead
        } else {
            match (near + ahead).checked_sub(ERA) {
                Some(seconds) => seconds,
                None => return None,
            }
        };
        match seconds.checked_sub(epoch) {
            Some(seconds) => match seconds.checked_mul(NANOSECONDS) {
                Some(nanoseconds) => nanoseconds.checked_add(rest),
                None => None,
            },
            None => None,
        }
    }
}

/// How wrong a clock may be: S, Z, Scale and Multiplier (RFC 4656 section 4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

const SYNCHRONIZED: u16 = 0x8000;
const PTP: u16 = 0x4000;

impl ErrorEstimate {
    /// Makes the smallest estimate of at least `nanoseconds`.
    #[must_use]
    pub const fn new(is_synchronized: bool, format: Format, nanoseconds: u64) -> Self {
        // In units of 2^-32 seconds, rounded up.
        let mut multiplier = ((nanoseconds as u128) << 32).div_ceil(NANOSECONDS as u128);
        let mut scale = 0;
        while multiplier > 0xff {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        // A multiplier of 0 means that the packet is corrupt.
        if multiplier == 0 {
            multiplier = 1;
        }
        let mut bits = scale << 8 | multiplier as u16;
        if is_synchronized {
            bits |= SYNCHRONIZED;
        }
        if matches!(format, Format::Ptp) {
            bits |= PTP;
        }
        Self(bits)
    }

    /// Whether the clock claims to be synchronized to UTC by an external source (S).
    #[must_use]
    pub const fn is_synchronized(self) -> bool {
        self.0 & SYNCHRONIZED != 0
    }

    /// The format of the timestamps beside the estimate (Z).
    #[must_use]
    pub const fn format(self) -> Format {
        if self.0 & PTP == 0 {
            Format::Ntp
        } else {
            Format::Ptp
        }
    }

    /// The claimed error in nanoseconds, rounded up; [`u64::MAX`] if it is larger.
    ///
    /// None: the multiplier is 0, so the estimate says nothing.
    #[must_use]
    pub const fn nanoseconds(self) -> Option<u64> {
        let (multiplier, scale) = (self.0 & 0xff, self.0 >> 8 & 0x3f);
        if multiplier == 0 {
            return None;
        }
        let error = (multiplier as u128 * NANOSECONDS as u128) << scale;
        let error = error.div_ceil(ERA as u128);
        Some(if error > u64::MAX as u128 {
            u64::MAX
        } else {
            error as u64
        })
    }
}

#[cfg(test)]
mod tests;
