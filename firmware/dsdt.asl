/* SPDX-License-Identifier: MIT */
/*
 * The machine as the guest's ACPI sees it. It is the same for every machine of one machine
 * version: nothing in here depends on the command line. CPUs are in the MADT
 * alone. What a later version added is between #ifdef and #endif.
 *
 * No _PRT: virtio devices use MSI-X only and have no interrupt pin. No PS/2 device: the FADT says
 * that there is no 8042; the reset line of one is all there is.
 */
DefinitionBlock ("", "DSDT", 2, "MOLT  ", "MOLTDSDT", 1)
{
	Scope (\_SB)
	{
		/* What must not be given to anyone else: ECAM, PM1 blocks, the reset register. */
		Device (MBRD)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
				IO (Decode16, 0x0600, 0x0600, 0x01, 0x10)
				IO (Decode16, 0x0CF9, 0x0CF9, 0x01, 0x01)
			})
		}

		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, Zero)
			Name (_BBN, Zero)
			Name (_UID, Zero)
			Name (_CCA, One)

			/*
			 * No I/O window: virtio 1.x devices have memory BARs only, and legacy
			 * ports are none of the bridge's business.
			 */
			Name (_CRS, ResourceTemplate ()
			{
#ifdef MACHINE_VERSION_2
				IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
#endif
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0x0000, 0x0000, 0x0000, 0x0000, 0x0001)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0x0000000000000000, 0x0000004000000000, 0x0000007FFFFFFFFF,
					0x0000000000000000, 0x0000004000000000)
			})

			/*
			 * Arg2 DWORDs: query flags, support, control. Nothing that needs native
			 * control is there, so whatever is asked for is masked off.
			 */
			Method (_OSC, 4, NotSerialized)
			{
				CreateDWordField (Arg3, Zero, CDW1)
				If (Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					CreateDWordField (Arg3, 8, CDW3)
					If (Arg1 != One)
					{
						CDW1 |= 0x08	/* unknown revision */
					}
					If (CDW3 != Zero)
					{
						CDW1 |= 0x10	/* control bits masked */
						CDW3 = Zero
					}
				}
				Else
				{
					CDW1 |= 0x04	/* unknown UUID */
				}
				Return (Arg3)
			}
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, One)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
				IRQNoFlags () { 4 }
			})
		}

#ifdef MACHINE_VERSION_2
		/* There if the user asked for it: where nobody is, ports read as all ones. */
		OperationRegion (C2RG, SystemIO, 0x02F8, 0x08)
		Field (C2RG, ByteAcc, NoLock, Preserve)
		{
			Offset (0x05),
			C2LS, 8
		}

		Device (COM2)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 0x02)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x02F8, 0x02F8, 0x01, 0x08)
				IRQNoFlags () { 3 }
			})

			Method (_STA, 0, NotSerialized)
			{
				If (C2LS == 0xFF)
				{
					Return (Zero)
				}
				Return (0x0F)
			}
		}
#endif

		Device (RTC0)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
				IRQNoFlags () { 8 }
			})
		}

		/* pvpanic: a guest that panicked says so by writing 1 */
		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0505, 0x0505, 0x01, 0x01)
			})
		}
	}

	Name (\_S5, Package (0x04) { 0x05, 0x05, Zero, Zero })
}
