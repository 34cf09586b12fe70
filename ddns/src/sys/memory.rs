//! Memory for tables that are read at random.

/// An empty list with room for exactly so many, in pages of two megabytes where the system has them: with small ones, most of
/// a look-up in a large table is the search for the page.
pub(crate) fn with_large_pages<T>(capacity: usize) -> Vec<T> {
    let mut list = Vec::<T>::with_capacity(capacity);
    let room = list.spare_capacity_mut();
    let (start, length) = (room.as_mut_ptr() as usize, size_of_val(room));
    // Only whole pages within the allocation: the advice must not touch what others have around it.
    let first = start.next_multiple_of(PAGE);
    let pages = (start + length).saturating_sub(first) / PAGE;
    if pages > 0 {
        // SAFETY: the range lies within `list`'s own allocation; the advice changes how it is backed and none of its octets.
        // It may be refused, and then the pages are small.
        unsafe {
            libc::madvise(
                first as *mut libc::c_void,
                pages * PAGE,
                libc::MADV_HUGEPAGE,
            )
        };
    }
    list
}

const PAGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_it_can_be_used() {
        for capacity in [0, 1, 1 << 20] {
            let mut list = with_large_pages::<u64>(capacity);
            assert!(list.capacity() >= capacity);
            list.extend(0..capacity as u64);
            assert!(list.iter().zip(0..).all(|(there, put)| *there == put));
        }
    }
}
