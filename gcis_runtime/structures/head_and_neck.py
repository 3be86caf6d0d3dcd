"""Names of structures of the head and neck in English, German, French and Spanish, with SNOMED CT codes."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "brain": "Gehirn; Hirn; cerveau; encéphale; cerebro; encéfalo; 12738006",
    "brainstem": (
        "brain stem; BrainStem; truncus encephali; truncus cerebri; Hirnstamm; Stammhirn; tronc "
        "cérébral; tronc encéphalique; tronco cerebral; tronco encefálico; tronco del encéfalo; tallo "
        "cerebral; 15926001; 119238007"
    ),
    "spinal cord": (
        "SpinalCord; cord; myelon; medulla spinalis; Rückenmark; moelle épinière; moelle spinale; médula "
        "espinal; cordón espinal; 2748008"
    ),
    "parotid gland": (
        "parotid; parotis; parotid salivary gland; glandula parotidea; glandula parotis; "
        "Ohrspeicheldrüse; Ohrspeicheldrüsen; Parotisdrüse; parotide; glande parotide; parótida; "
        "parótidas; glándula parótida; glándulas parótidas; 45289007"
    ),
    "submandibular gland": (
        "submandibular; submandibular salivary gland; submandibularis; Glnd_Submand; submand; glandula "
        "submandibularis; Unterkieferspeicheldrüse; Submandibulardrüse; Glandula submandibularis; glande "
        "submandibulaire; glande sous maxillaire; glándula submandibular; 385296007"
    ),
    "larynx": "voice box; Kehlkopf; laringe; 4596009",
    "glottic larynx": (
        "glottis; Larynx_Glottic; larynx glottis; Glottis; glotte; larynx glottique; "
        "glotis; laringe glótica; 1307006"
    ),
    "supraglottic larynx": (
        "supraglottis; Larynx_SG; Larynx_Supraglot; supraglottischer Larynx; supraglottischer Kehlkopf; "
        "larynx supraglottique; laringe supraglótica; 119255006"
    ),
    "mandible": (
        "mandibula; Bone_Mandible; lower jaw; lower jaw bone; Unterkiefer; Unterkieferknochen; "
        "mandibule; mâchoire inférieure; mandíbula; maxilar inferior; 91609006"
    ),
    "oral cavity": (
        "Cavity_Oral; OralCavity; mouth cavity; cavitas oris; Mundhöhle; cavité buccale; cavité orale; "
        "cavidad oral; cavidad bucal; 74262004"
    ),
    "lips": "lip; labia oris; Lippen; Lippe; lèvres; lèvre; labios; labio; 48477009",
    "buccal mucosa": (
        "BuccalMucosa; cheek mucosa; Wangenschleimhaut; muqueuse buccale; "
        "mucosa bucal; mucosa yugal; 16811007"
    ),
    "arytenoid cartilages": (
        "arytenoid; arytenoid cartilage; Stellknorpel; Aryknorpel; cartilages aryténoïdes; cartílagos "
        "aritenoides; aritenoides"
    ),
    "cricopharyngeal inlet": (
        "cricopharyngeus; cricopharyngeal muscle; Krikopharyngeus; cricopharyngien; cricofaríngeo"
    ),
    "pharyngeal constrictor muscle": (
        "PharynxConst; pharyngeal constrictor; pharynx constrictor; musc constrict; Schlundschnürer; "
        "constricteur du pharynx; constrictor de la faringe; constrictor faríngeo; 4866005"
    ),
    "thyroid gland": (
        "thyroid; Glnd_Thyroid; glandula thyroidea; Schilddrüse; thyroïde; glande thyroïde; tiroides; "
        "glándula tiroides; 69748006"
    ),
    "cervical esophagus": (
        "Esophagus_S; Halsösophagus; zervikaler Ösophagus; œsophage cervical; oesophage cervical; "
        "esófago cervical"
    ),
    "carotid artery": (
        "carotid; A_Carotid; Carotis; Karotis; Halsschlagader; carotide; artère carotide; carótida; "
        "arteria carótida; 69105007"
    ),
    "common carotid artery": (
        "common carotid; arteria carotis communis; gemeinsame Halsschlagader; artère carotide commune; "
        "carotide commune; arteria carótida común; carótida común; 32062004"
    ),
    "eye": (
        "eyeball; globe; bulbus oculi; Auge; Augen; Augapfel; œil; oeil; yeux; globe oculaire; ojo; "
        "globo ocular; 81745001"
    ),
    "left anterior segment of the eyeball": "Eye_AL; anterior segment of the left eye",
    "right anterior segment of the eyeball": "Eye_AR; anterior segment of the right eye",
    "left posterior segment of the eyeball": "Eye_PL; posterior segment of the left eye",
    "right posterior segment of the eyeball": "Eye_PR; posterior segment of the right eye",
    "lens of the eye": (
        "lens; eye lens; crystalline lens; Augenlinse; Linse; cristallin; cristalino; 78076003"
    ),
    "lacrimal gland": (
        "lacrimal; Glnd_Lacrimal; lachrymal gland; Tränendrüse; Tränendrüsen; glande lacrymale; glándula "
        "lagrimal; 13561001"
    ),
    "optic nerve": (
        "OpticNrv; OpticNerve; nervus opticus; Sehnerv; Sehnerven; nerf optique; nervio óptico; 18234004"
    ),
    "optic chiasm": (
        "chiasm; OpticChiasm; chiasma; optic chiasma; chiasma opticum; Sehnervenkreuzung; chiasma "
        "optique; quiasma óptico; quiasma; 244453006"
    ),
    "pituitary gland": (
        "pituitary; hypophysis; hypophysis cerebri; Hypophyse; Hirnanhangsdrüse; hypophyse; glande "
        "pituitaire; hipófisis; glándula pituitaria; 56329008"
    ),
    "cochlea": "inner ear cochlea; Hörschnecke; Cochlea; cochlée; cóclea",
    "middle ear": "MiddleEar; auris media; Mittelohr; oreille moyenne; oído medio; 25342003",
    "internal auditory canal": (
        "IAC; internal acoustic meatus; innerer Gehörgang; "
        "conduit auditif interne; conducto auditivo interno; 361078006"
    ),
    "tympanic cavity": (
        "TympanicCavity; Paukenhöhle; cavité tympanique; caisse du tympan; cavidad timpánica"
    ),
    "vestibule and semicircular canals": (
        "VestibulSemi; Vestibulum und Bogengänge; vestibule et canaux semi circulaires; vestíbulo y "
        "canales semicirculares"
    ),
    "bony Eustachian tube": "ETbone; bony auditory tube; knöcherne Ohrtrompete; trompe d'Eustache osseuse",
    "mastoid": "mastoid process; mastoid bone; Mastoid; Warzenfortsatz; mastoïde; mastoides; 59066005",
    "temporomandibular joint": (
        "TMjoint; TMJ; Kiefergelenk; Kiefergelenke; articulation temporo mandibulaire; ATM; articulación "
        "temporomandibular; 53620006"
    ),
    "temporal lobe": (
        "TemporalLobe; Lobe_Temporal; Schläfenlappen; Temporallappen; lobe temporal; lóbulo temporal; "
        "78277001"
    ),
    "hippocampus": "hippocampal formation; Hippocampus; hippocampe; hipocampo; 5366008",
    "nasopharyngeal tumor": (
        "GTVp; nasopharyngeal carcinoma; Nasopharynxtumor; Nasopharynxkarzinom; tumeur du nasopharynx; "
        "tumor nasofaríngeo"
    ),
    "metastatic cervical lymph nodes": (
        "GTVnd; cervical lymph node metastases; Halslymphknotenmetastasen; zervikale "
        "Lymphknotenmetastasen; métastases ganglionnaires cervicales; metástasis ganglionares cervicales"
    ),
    "skull": "cranium; Schädel; crâne; cráneo; 89546000",
    "face": "Gesicht; visage; cara; rostro; 89545001",
}
"""Per structure: aliases separated by semicolons; numbers are SNOMED CT codes. Names may contain a side."""
