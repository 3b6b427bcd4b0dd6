"""Contract clauses and the obligation each one creates. As with tickets, `HELD_OUT` are sentences that training never sees."""

# ruff: noqa: E501  (one template, one line: the lines are the data)

OBLIGATIONS = ("payment", "confidentiality", "notice", "termination", "liability", "audit", "insurance", "data protection")

TRAINING: dict[str, tuple[str, ...]] = {
    "payment": (
        "{party} shall pay [all|each|every] [invoices|invoice|undisputed invoices] within {number} days [of receipt|after the invoice date|of the invoice date].",
        "[The fees|All fees|The charges] [are due|are payable|become payable] [monthly in advance|at the end of each month|within {number} days|on delivery].",
        "[Late|Overdue] [payments|amounts|sums] [bear|carry|shall bear] interest [at|of] {number} percent [per year|per month|].",
        "{party} [shall|must|will] reimburse {other} for [reasonable|documented|all travel] [expenses|costs].",
        "The [purchase price|price|rent|licence fee] of {amount} [is due|shall be paid|is to be paid] [on signature|on the first day of each month|by bank transfer].",
        "{party} [shall|must] transfer the [deposit|instalment|agreed sum] to the account [named|given] by {other}.",
    ),
    "confidentiality": (
        "{party} [shall|must|will] [keep|hold] [all|the|any] Confidential Information [secret|in strict confidence|confidential].",
        "[Neither party|No party] [shall|may] disclose [the terms of this agreement|Confidential Information|trade secrets] to [any third party|third parties|anyone else].",
        "{party} [shall|may] use the Confidential Information [only|solely] for [the purpose of this agreement|the project|its performance].",
        "The [duty|obligation] of [secrecy|confidentiality] [survives|continues] for {number} years after [the end of|] this agreement.",
        "{party} [shall|must] return or destroy all [secret|confidential] [documents|material|papers] on request.",
        "[Employees|Advisers|Staff] of {party} [must|shall] be bound by [the same|equal] secrecy [duties|obligations].",
    ),
    "notice": (
        "[Any|All|Every] [notice|notices|communication] under this agreement [must|shall] be [in writing|made in writing|sent by registered mail|delivered by courier].",
        "{party} [shall|must] [notify|inform] {other} [in writing|promptly|without delay] of [any change|a change of address|any delay|such event].",
        "Notices [are deemed|shall be deemed] received [on the next business day|{number} days after posting|when delivered].",
        "{party} [shall|must] give {other} [written |]notice of {number} days before [any price change|the work begins|such change].",
        "[Notice|A notice] [sent|given] by email [is valid|takes effect] only [if|when] [confirmed|its receipt is confirmed].",
        "{party} [shall|must] [tell|inform] {other} at least {number} days [in advance|ahead] of [planned maintenance|any move|a change of contact].",
    ),
    "termination": (
        "[Either|Each] party may [terminate|end|cancel] this agreement [with|by] {number} days [written |]notice.",
        "{party} may [terminate|end] [this agreement|the contract] [at once|immediately] [if|when] {other} [breaches it|becomes insolvent|commits a material breach].",
        "[On|Upon|After] [termination|expiry] [of this agreement|], {party} [shall|must] [return all property|stop using the software|hand over all records].",
        "This agreement [ends|expires|terminates] [automatically |]on [31 December|the end date|the last day of {month}] [unless renewed|].",
        "The [contract|agreement] [may be|can be] [terminated|ended|cancelled] [for convenience|for cause|without reason] [at any time|].",
        "[If|When] a breach is not [cured|remedied] within {number} days, {other} may [terminate|end] the [agreement|contract].",
    ),
    "liability": (
        "[The|] {party} [is|shall be] [liable|responsible] for [any damage|all losses|damage] [caused by|arising from] its [negligence|breach|acts or omissions].",
        "[The total|The aggregate|Total] liability of {party} [is limited to|shall not exceed|is capped at] [{amount}|the fees paid in the last {number} months|the contract value].",
        "[Neither|No] party is liable for [indirect|consequential|special] [damages|losses|damage] [or lost profit|].",
        "{party} [shall|must|will] indemnify {other} against [all claims|third party claims|any loss] [arising from this agreement|].",
        "Nothing in this agreement [limits|excludes] liability for [fraud|wilful misconduct|death or personal injury|gross negligence].",
        "{party} [shall|must] [hold {other} harmless|compensate {other}] for [losses|damages|claims] [caused by defects|caused by its staff|].",
    ),
    "audit": (
        "{other} may [audit|inspect|examine] the [books|records|accounts] of {party} [once a year|on {number} days notice|at any reasonable time|].",
        "{party} [shall|must] [keep|maintain] [complete|accurate] records for {number} years and [make them available for inspection|open them to auditors].",
        "{party} [shall|must] [allow|permit] [an independent auditor|auditors|inspectors] to [enter its premises|review its records|check its compliance].",
        "[An|The] audit [may|shall] take place [once per year|during business hours|no more than twice a year].",
        "The [cost|costs] of [an|the] [audit|inspection] [are borne by|shall be paid by|fall on] {party} if [errors are found|it reveals a shortfall].",
        "{party} [shall|must] [answer|support] every [audit request|inspection|audit] and [give access to|provide] [all documents|the relevant records].",
    ),
    "insurance": (
        "{party} [shall|must] [maintain|take out|carry|keep] [insurance|liability insurance|insurance cover] of [at least|not less than] {amount}.",
        "{party} [shall|must] [show|provide|deliver] [a certificate of insurance|proof of insurance|the insurance policy] [on request|before work begins|].",
        "The [goods|building|equipment] [must|shall] be insured against [fire|theft|fire and theft|loss] [by {party}|].",
        "[Professional indemnity|Public liability|Workers compensation] insurance [must|shall] [be kept in force|remain in force|be held] [during the term|for {number} years].",
        "{party} [shall|must] name {other} as [an additional insured|an insured party] [under|on|in] its [policy|policies].",
        "The insurance [policy|cover] [may not|shall not] be [cancelled|changed] without [the consent of {other}|{number} days warning].",
    ),
    "data protection": (
        "{party} [shall|must|will] process personal data only [on the instructions of {other}|as instructed|for the agreed purpose].",
        "{party} [shall|must] [implement|apply|take] [appropriate|suitable] [technical and organisational|security] measures to protect personal data.",
        "{party} [shall|must] report [any|every|a] personal data breach [within {number} hours|without undue delay].",
        "Personal data [may not|shall not|must not] be [transferred|moved|sent] [outside the European Union|to another country|abroad] [without consent|].",
        "{party} [shall|must] [delete|erase|return] [all|the] personal data [at the end of the service|on request|after {number} days].",
        "{party} [shall|must] comply with [the GDPR|data protection law|privacy law|all privacy laws] [and help with requests of data subjects|].",
    ),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
    "payment": (
        "All invoices must be paid by {party} no later than {number} days after receipt.",
        "{party} agrees to pay {other} a monthly fee of {amount}.",
        "If a payment is late, interest of {number} percent is due.",
        "Travel costs are reimbursed to {other} after each month.",
    ),
    "confidentiality": (
        "The parties agree to keep the trade secrets of each other confidential.",
        "{party} must not disclose any secret information of {other} to a third party.",
        "Confidential Information stays secret for {number} years.",
        "{party} shall protect the Confidential Information and shall not share it with anyone.",
    ),
    "notice": (
        "{party} shall inform {other} in writing if its address changes.",
        "A notice is deemed delivered on the second business day after posting.",
        "Every communication between the parties must be made in writing and sent by courier.",
        "{party} must promptly notify {other} of any delay.",
    ),
    "termination": (
        "This contract can be ended by either party with {number} days notice.",
        "If {party} becomes insolvent, {other} may end this agreement immediately.",
        "The agreement expires on the last day of {month} unless it is renewed.",
        "After the agreement ends, {party} must return all property.",
    ),
    "liability": (
        "{party} shall not be liable for lost profit or indirect damage.",
        "The liability of {party} under this contract is capped at {amount}.",
        "{party} must indemnify {other} against claims of third parties.",
        "Each party is responsible for damage caused by its gross negligence.",
    ),
    "audit": (
        "{other} has the right to inspect the records of {party} once per year.",
        "{party} shall give auditors access to its books during business hours.",
        "An independent auditor may review the accounts of {party}.",
        "{party} must keep accurate records and open them for an audit.",
    ),
    "insurance": (
        "{party} must be insured for at least {amount} during the term.",
        "A certificate of insurance shall be provided by {party}.",
        "{party} shall keep the equipment insured against theft and fire.",
        "Insurance cover must be maintained by {party} for {number} years.",
    ),
    "data protection": (
        "Personal data shall be erased by {party} at the end of the contract.",
        "{party} must protect personal data with suitable security measures.",
        "A breach of personal data must be reported within {number} hours.",
        "{party} processes personal data only for the purpose agreed with {other} and under the GDPR.",
    ),
}

PARTIES = (
    "The Customer",
    "The Supplier",
    "The Contractor",
    "The Licensee",
    "The Provider",
    "The Tenant",
    "The Buyer",
    "The Consultant",
    "The Company",
    "The Vendor",
)
OTHERS = (
    "the Customer",
    "the Supplier",
    "the Client",
    "the Licensor",
    "the Provider",
    "the Landlord",
    "the Seller",
    "the Owner",
    "the other party",
    "the Company",
)

MEANINGS: dict[str, str] = {
    "payment": "one party must pay an agreed sum on time",
    "confidentiality": "information must be kept secret and used only as agreed",
    "notice": "one party must inform the other in the agreed form",
    "termination": "it says how and when the agreement may end",
    "liability": "it says who answers for damage and up to what limit",
    "audit": "records must be kept and opened for inspection",
    "insurance": "one party must hold insurance cover",
    "data protection": "personal data must be handled lawfully and kept safe",
}
